"""The numbers that tell one rounding from another."""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import pairwise, product

import oracle
from oracle import Element, Float

FLOAT16, BFLOAT16 = Float(5, 10), Float(8, 7)
FLOAT32_MAX, FLOAT64_MAX = float.fromhex("0x1.fffffep127"), sys.float_info.max
TINY = (2.0**-1074, 2.0**-149, 2.0**-126)
SPECIAL = (0.0, -0.0, math.inf, -math.inf, math.nan)


def float32_bits(number: float) -> int:
    """The binary32 code of a number within its range, cut toward zero in magnitude."""
    bits: int = struct.unpack("<I", struct.pack("<f", abs(number)))[0]
    return bits - 1 if float32(bits) > abs(number) else bits


def float32(bits: int) -> float:
    """The binary32 number of a code without sign."""
    number: float = struct.unpack("<f", struct.pack("<I", bits))[0]
    return number


def beside(number: float) -> Iterator[float]:
    """A number, then its neighbours in float32 and float64."""
    yield number
    yield math.nextafter(number, -math.inf)
    yield math.nextafter(number, math.inf)
    if abs(number) < FLOAT32_MAX and number != 0:
        bits, sign = float32_bits(number), math.copysign(1.0, number)
        exact = float32(bits) == abs(number)
        yield from (
            sign * float32(near) for near in ((bits - 1, bits + 1) if exact else (bits, bits + 1))
        )


def coarse(number: float) -> Iterator[float]:
    """The neighbours of a number in float16 and bfloat16, for the sources that no float32 neighbour
    is exact in.
    """
    magnitude = Fraction(number)
    for source in (FLOAT16, BFLOAT16):
        place = source.place(abs(magnitude))
        exact = source.point(place) == abs(magnitude)
        for near in (place - 1, place + 1) if exact else (place, place + 1):
            if 0 < near <= source.top:
                yield math.copysign(oracle.carrier(source.point(near)), number)


def ends(fmt: Element) -> list[float]:
    """max and min, the next step beyond, half way there, and further."""
    numbers = []
    for end, sign in ((fmt.high, 1), (fmt.low, -1)):
        step = sign * abs(beyond(fmt, end) - end)
        numbers += [end, end + step / 2, end + step, end + 2 * step, end * 3, end * 16]
    far = [s * x for s in (1, -1) for x in (256.0, 65504.0, 2.0**100, FLOAT32_MAX, FLOAT64_MAX)]
    return [float(x) for x in numbers if abs(x) <= Fraction(FLOAT64_MAX)] + far


def beyond(fmt: Element, end: Fraction) -> Fraction:
    """The magnitude one step beyond an end of the range."""
    if isinstance(fmt, oracle.Grid):
        return fmt.point(fmt.place(abs(end)) + 1) * (-1 if end < 0 else 1)
    return end + 1


def without_repeats(numbers: Iterable[float]) -> list[float]:
    """Distinct numbers, ascending, then the special ones."""
    finite = {x for x in numbers if math.isfinite(x) and x != 0}
    return [*sorted(finite), *SPECIAL]


def boundaries(fmt: Element) -> list[float]:
    """RND-12: where the nearest modes step other than half way, or the number nearest to it."""
    if not isinstance(fmt, oracle.Table):
        return []
    given = (fmt.boundary(fmt.first_place + i) for i in range(len(fmt.ordered) - 1))
    return [float(between.low) for between in given if between is not None]


def dense_inputs(fmt: Element, light: bool = False) -> list[float]:
    """Every value, every midpoint and both ends, each with its neighbours; numbers far below the
    least.

    `light` leaves the float16 and bfloat16 neighbours out.
    """
    values = [oracle.carrier(v) for v in fmt.values()]
    middles = [float((Fraction(a) + Fraction(b)) / 2) for a, b in pairwise(values)] + boundaries(
        fmt
    )
    least = min(abs(v) for v in values if v)
    below = [s * x for s in (1.0, -1.0) for x in (*TINY, least / 4, least / 2, least * 0.75, least)]
    anchors = [near for x in (*values, *middles, *ends(fmt), *below) for near in beside(x)]
    return without_repeats(
        anchors if light else [*anchors, *(near for x in middles for near in coarse(x))]
    )


def edge_inputs(fmt: Element, policy: str) -> list[float]:
    """max and min and all that lies beyond, with their neighbours; what a format without zero or
    sign cannot hold.

    `propagate` differs from `saturate` in the infinities alone, and has fewer.
    """
    least = oracle.carrier(fmt.least) if isinstance(fmt, oracle.Grid) else 1.0
    if policy == "propagate":
        return without_repeats(
            [float(fmt.high), 3 * float(fmt.low), least / 4, -least, FLOAT32_MAX, -FLOAT32_MAX]
        )
    small = [s * x for s in (1.0, -1.0) for x in (least / 4, least / 2, least * 0.75, least)]
    return without_repeats(near for x in (*ends(fmt), *small) for near in beside(x))


def between(fmt: Float, place: int, share: float) -> Fraction:
    """The magnitude that lies a share of the way from one place to the next."""
    return fmt.point(place) + Fraction(share) * (fmt.point(place + 1) - fmt.point(place))


def sparse_inputs(fmt: Float) -> list[float]:
    """Edge exponents times edge significands times edge fractions of the quantum."""
    least, steps = fmt.place(fmt.least), 2**fmt.mantissa
    bottom, middle, end = steps, (fmt.offset - 1) * steps, fmt.top + 1 - steps
    places = [
        least - 1,
        least,
        least + 1,
        least + 2,
        bottom // 2 - 1,
        bottom // 2,
        bottom - 2,
        bottom - 1,
    ]
    for start in (bottom, bottom + steps, middle, middle + steps, end - steps, end, end + steps):
        places += [
            start + offset for offset in (0, 1, steps // 3, steps // 2, steps - 2, steps - 1)
        ]
    fine = 2.0 ** (fmt.mantissa - 23), 2.0 ** (fmt.mantissa - 52)
    shares = [0, 0.25, 0.5, 0.75, *(s for f in fine for s in (f, 0.5 - f, 0.5 + f, 1 - f))]
    exact = [
        float(m)
        for m in (between(fmt, *pair) for pair in product(places, shares))
        if Fraction(float(m)) == m
    ]
    return without_repeats(
        [s * x for x in (*exact, *TINY, 2.0**-150, FLOAT32_MAX, FLOAT64_MAX) for s in (1, -1)]
    )
