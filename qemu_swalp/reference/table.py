"""Rounding to a table of values (clauses RND-3, RND-4, RND-6, RND-12).

A deterministic mode is a monotone step function, so it is given by where it steps: for each pair of
adjacent values the least number of the source dtype that becomes the upper one. These come from
exact fractions on the host, and the device searches them. A stochastic mode compares the word with
ν, which comes by long division.

For that each sign is seen as a frame in which x counts as positive; the values of the frame,
ascending, are u_0 < … < u_k. In [u_i, u_{i+1}) the candidate toward zero is u_i, and ν = (|x| -
u_i)/(u_{i+1} - u_i) is computed in units 2^g that divide both ends, so it is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

import numpy as np

from ..arrays import Array, Namespace
from ..arrays.dtypes import SourceDtype
from ..formats import TableFormat
from ..rounding import Rounding, rounds_up
from .element import aligned, finish
from .overflow import overflow_result


def round_table(
    xp: Namespace,
    x: Array,
    carrier: SourceDtype,
    format: TableFormat,
    overflow: str,
    rounding: Rounding,
    words: Array | None,
) -> Array:
    """x rounded to the values of the format; arguments as `round_binade`."""
    magnitude, key = signed_key(xp, x, carrier)
    if rounding.stochastic:
        bits = _stochastic(xp, x, carrier, format, rounding, words)
    else:
        index = xp.searchsorted(steps_of(format, carrier, rounding.mode), key)
        bits = xp.take(value_bits(format, carrier), index)
    if format.has_negative_zero:
        bits = xp.where(carrier.negative(xp, x) & (bits == 0), -(1 << (carrier.storage - 1)), bits)
    if overflow != "saturate":
        low, high = map(int, keys((format.min, format.max), carrier))
        magnitudes = bits & ((1 << (carrier.storage - 1)) - 1)
        escaped = overflow_result(
            xp,
            carrier,
            format,
            overflow,
            rounding,
            magnitudes,
            below=key < low,
            beyond=(key < low) | (key > high),
            infinite=magnitude == carrier.infinity,
        )
        bits = bits - magnitudes + escaped
    return finish(xp, x, carrier, magnitude, bits)


def signed_key(xp: Namespace, x: Array, carrier: SourceDtype) -> tuple[Array, Array]:
    """(magnitude bits, integers that order like the elements); -0 counts as 0."""
    magnitude = xp.cast(xp.bits(x), carrier.width) & ((1 << (carrier.storage - 1)) - 1)
    return magnitude, xp.where(carrier.negative(xp, x), 0 - magnitude, magnitude)


def keys(numbers: Iterable[Fraction | float], carrier: SourceDtype) -> np.ndarray:
    """The keys of numbers that the carrier holds."""
    return np.array([_floor(Fraction(v), carrier)[0] for v in numbers], np.int64)


@lru_cache(maxsize=256)
def value_bits(format: TableFormat, carrier: SourceDtype) -> np.ndarray:
    """Bits of the finite values, ascending, as signed integers of the storage width."""
    return np.array([_bits(v, carrier) for v in format.finite], np.int64)


@lru_cache(maxsize=1024)
def steps_of(format: TableFormat, carrier: SourceDtype, mode: str) -> np.ndarray:
    """For each pair of adjacent values, the least key that becomes the upper one."""
    boundaries: Sequence[Fraction | None] = format.boundaries or [None] * (format.value_count - 1)
    pairs = zip(pairwise(map(Fraction, format.finite)), boundaries, strict=True)
    steps = (
        _step(mode, low, high, boundary, (format.first_place + i) % 2 == 1)
        for i, ((low, high), boundary) in enumerate(pairs)
    )
    return np.array([_least_key(at, included, carrier) for at, included in steps], np.int64)


def _step(
    mode: str, low: Fraction, high: Fraction, boundary: Fraction | None, odd: bool
) -> tuple[Fraction, bool]:
    """Where a mode steps from low to high, and whether the number there becomes high already.
    `odd`: low's place.
    """
    if (
        mode == "toward_positive"
        or (mode == "to_odd" and not odd)
        or (mode == "toward_zero" and high <= 0)
    ):
        return low, False
    if mode in ("toward_negative", "to_odd") or (mode == "toward_zero" and low >= 0):
        return high, True
    if (
        mode == "toward_zero"
    ):  # the values lie on either side of a zero that is none of them (clause RND-6)
        return Fraction(0), True
    at = (low + high) / 2 if boundary is None else boundary
    if at in (low, high):  # a value is exact and stays
        return at, at == high
    return at, odd if mode == "nearest_even" else at >= 0


def _least_key(at: Fraction, included: bool, carrier: SourceDtype) -> int:
    floor, exact = _floor(at, carrier)
    return floor if exact and included else floor + 1


def _floor(v: Fraction, carrier: SourceDtype) -> tuple[int, bool]:
    """The key of the greatest number of the carrier that is not above v, and whether it is v."""
    bits, exact = _magnitude_bits(carrier, *abs(v).as_integer_ratio())
    return (bits if v >= 0 else -bits - (not exact)), exact


def _bits(v: float, carrier: SourceDtype) -> int:
    """Bits of a number that the carrier holds, as a signed integer of the storage width."""
    return _magnitude_bits(carrier, *abs(v).as_integer_ratio())[0] - (
        (1 << (carrier.storage - 1)) if v < 0 else 0
    )


def _magnitude_bits(carrier: SourceDtype, numerator: int, denominator: int) -> tuple[int, bool]:
    """Bits of the carrier's greatest number that is not above v ≥ 0, and whether it is v; as if it
    had no greatest.
    """
    if numerator == 0:
        return 0, True
    e = numerator.bit_length() - denominator.bit_length()
    e -= (numerator < denominator << e) if e >= 0 else (numerator << -e < denominator)
    field = max(e + carrier.bias, 1)
    shift = carrier.bias + carrier.mantissa - field
    units, rest = divmod(numerator << max(shift, 0), denominator << max(-shift, 0))
    return units + ((field - 1) << carrier.mantissa), rest == 0


# ----------------------------------------------------------------------------------------------------
# stochastic modes


def _stochastic(
    xp: Namespace,
    x: Array,
    carrier: SourceDtype,
    format: TableFormat,
    rounding: Rounding,
    words: Array | None,
) -> Array:
    """Bits of the chosen values."""
    carrier = _computing(carrier, format)
    magnitude, sig, ulp = carrier.split(xp, x)
    negative = carrier.negative(xp, x) & (magnitude != 0)
    positive_frame, negative_frame = (
        sign_view_of(format, carrier, 1),
        sign_view_of(format, carrier, -1),
    )

    def look_up(column: Callable[[Frame], np.ndarray], index: Array) -> Array:
        return xp.where(
            negative, xp.take(column(negative_frame), index), xp.take(column(positive_frame), index)
        )

    def place(frame: Frame) -> Array:
        return xp.searchsorted(frame.keys, magnitude) + (frame.not_positive - 1)

    found = xp.where(negative, place(negative_frame), place(positive_frame))
    last = format.value_count - 1
    outside = (found < 0) | (found >= last)
    index = xp.clip(found, 0, last - 1)

    divisor = look_up(lambda f: f.divisors, index)
    offset, tail = _units(xp, carrier, sig, ulp - look_up(lambda f: f.ulp_exponents, index))
    high, low = _divide(
        xp,
        carrier,
        xp.where(outside, 0, offset - look_up(lambda f: f.starts, index)),
        tail,
        divisor,
        rounding.random_bits + 1,
    )
    away = rounds_up(
        xp, rounding, high, low, 0 * index, negative, aligned(xp, words, carrier.width)
    )
    chosen = xp.clip(xp.where(outside, found, index + xp.cast(away, carrier.width)), 0, last)
    return look_up(lambda f: f.bits, chosen)


@dataclass(frozen=True, eq=False)
class Frame:
    """One sign's view of a table: columns of integers for the device."""

    keys: np.ndarray
    """Magnitude bits of the values u > 0."""
    not_positive: int
    """Number of values u ≤ 0."""
    bits: np.ndarray
    """Bits of each value, in its true sign, as a signed integer of the storage width."""
    ulp_exponents: np.ndarray
    """For each interval, g: both ends are multiples of 2^g."""
    starts: np.ndarray
    """u_i/2^g, modulo 2^width."""
    divisors: np.ndarray
    """(u_{i+1} - u_i)/2^g; 2^63 - 1 where it is greater."""


@lru_cache(maxsize=256)
def sign_view_of(format: TableFormat, carrier: SourceDtype, sign: int) -> Frame:
    """The table as x of that sign sees it, in integers of the carrier's width."""
    values = sorted(sign * v for v in format.finite)
    pairs = list(pairwise(values))
    ulp_exponents = [min(_grain(v) for v in pair if v) for pair in pairs]
    ends = [
        (_multiple(a, g), _multiple(b, g)) for (a, b), g in zip(pairs, ulp_exponents, strict=True)
    ]
    half = 1 << (carrier.width - 1)
    bits = value_bits(format, carrier)
    return Frame(
        keys=keys((v for v in values if v > 0), carrier),
        not_positive=sum(v <= 0 for v in values),
        bits=bits if sign > 0 else bits[::-1].copy(),
        ulp_exponents=np.array(ulp_exponents, np.int64),
        starts=np.array([(a + half) % (2 * half) - half for a, _ in ends], np.int64),
        divisors=np.array([min(b - a, 2**63 - 1) for a, b in ends], np.int64),
    )


def _grain(v: float) -> int:
    """Exponent of the greatest power of two that divides v ≠ 0."""
    numerator, denominator = abs(v).as_integer_ratio()
    return (numerator & -numerator).bit_length() - denominator.bit_length()


def _multiple(v: float, grain: int) -> int:
    """v/2^grain, an integer."""
    numerator, denominator = v.as_integer_ratio()
    shift = grain + denominator.bit_length() - 1
    return numerator << -shift if shift <= 0 else numerator >> shift


def _computing(carrier: SourceDtype, format: TableFormat) -> SourceDtype:
    """The carrier, in 64-bit integers where a divisor needs more than the 30 bits that long
    division has in 32.
    """
    for width in (carrier.width, 64):
        candidate = carrier if width == carrier.width else carrier.wide()
        if sign_view_of(format, candidate, 1).divisors.max() < 1 << (width - 2):
            return candidate
    raise ValueError(
        f"{format} has neighbours more than 2^62 units of their last place apart, too far for exact"
        " stochastic rounding; give its values fewer significant bits"
    )


def _units(
    xp: Namespace, carrier: SourceDtype, sig: Array, shift: Array
) -> tuple[Array, tuple[Array, Array]]:
    """⌊sig·2^shift⌋ modulo 2^width, and the tail (sig, number of its low bits that lie below the
    unit).
    """
    most = carrier.width - 1
    up = xp.shift_left(sig, xp.clip(shift, 0, most))
    down = xp.shift_right(sig, xp.clip(0 - shift, 0, most))
    return xp.where(shift >= 0, up, down), (sig, xp.maximum(0 - shift, 0))


def _divide(
    xp: Namespace,
    carrier: SourceDtype,
    remainder: Array,
    tail: tuple[Array, Array],
    divisor: Array,
    bits: int,
) -> tuple[Array, Array]:
    """(high, low) of ν = (remainder + tail)/divisor < 1: `bits` quotient bits, then whether
    anything is left.

    remainder < divisor < 2^(width-2), so twice the remainder plus a bit of the tail never
    overflows.
    """
    width = carrier.width
    sig, count = tail
    high = low = 0 * remainder
    for i in range(bits):
        position = count - (i + 1)
        bit = xp.where(position >= 0, xp.shift_right(sig, xp.clip(position, 0, width - 1)) & 1, 0)
        remainder = remainder * 2 + bit
        one = xp.cast(remainder >= divisor, width)
        remainder = remainder - one * divisor
        if i < width:
            high = high | xp.shift_left(one, width - 1 - i)
        else:
            low = xp.shift_left(one, width - 1)
    unread = xp.clip(count - bits, 0, width - 2)
    left = (remainder | (sig & (xp.shift_left(0 * sig + 1, unread) - 1))) != 0
    return high, low | xp.cast(left, width)
