"""Which products of float32 matrices come out in float32 as they do in float64 (clauses SUM).

Those whose products need at most 24 bits within float32's range, so that they are exact there;
whose sums are rounded at once, so that all that is added is exact; where rounding to odd at 24
bits, in place of 53, cannot be told, which needs two bits beyond the format's and the random ones
(Boldo and Melquiond 2008, theorem 1); and which stay below 2^127.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

from ..arrays.dtypes import SOURCE_DTYPES
from ..formats import BinadeFormat
from ..reference.context import Target
from ..rounding import NEAREST

SINGLE = SOURCE_DTYPES["float32"]
MOST = 126
"""Two numbers below 2^126 add up to one below 2^127."""

TO_NEAREST = ("nearest_even", "nearest_away", "nearest_zero", "nearest_up")
"""Modes of which a sum stops to grow: `_growth_to_nearest`."""


def limit_of(products: Target | None, sums: list[Target], terms: int) -> int | None:
    """The greatest binade of products with which float32 may do, each partial sum being rounded;
    None: with none.
    """
    rounded = sums if products is None else [products, *sums]
    if not all(map(_is_representable, rounded)) or not all(map(_shows, sums)):
        return None
    if all(map(_is_small, rounded)):
        return MOST - 2
    growth = _growth(rounded, terms)
    if all(target.rounding.mode in TO_NEAREST for target in sums):
        growth = min(growth, _growth_to_nearest(sums))
    formats: list[Any] = [target.format for target in rounded]
    if growth + max(math.log2(f.min_positive) for f in formats) >= MOST:
        return -2 * MOST
    return math.floor(min(MOST - 2.0, max(-2.0 * MOST, MOST - growth - 3)))


class Span(NamedTuple):
    """What the magnitudes of float32 numbers need, as bits."""

    used: int
    """The bits that any has."""
    least: int
    """The least that is not 0; without one any number."""
    most: int

    def bounds(self) -> tuple[int, int, int]:
        """(bits, binade of the last of them, greatest binade) that hold all numbers, or more.

        Subnormal numbers count as of the binade below, with a leading bit; infinities and NaN as of
        the binade above.
        """
        if not self.most:
            return 0, 0, 0
        ends = self.least, self.most
        least, most = ((end >> SINGLE.mantissa) - SINGLE.bias for end in ends)
        used = self.used & 0x7FFFFF | 1 << SINGLE.mantissa
        bits = SINGLE.precision - ((used & -used).bit_length() - 1)
        return bits, least - (bits - 1), most


class Products(NamedTuple):
    """What the products of two arrays need, or more."""

    bits: int
    least: int
    """All are multiples of 2^least."""
    most: int
    """All are below 2^(most + 2)."""


def products_of(a: Span, b: Span, limit: int) -> Products | None:
    """Of contiguous float32 arrays, if float32 does for a·b by what `limit_of` says; else None."""
    ends = a.bounds(), b.bounds()
    bits, least, most = (one + other for one, other in zip(*ends, strict=True))
    if any(end[0] == 1 for end in ends):  # powers of two, as the ones of `sum`
        bits -= 1
    fits = bits <= SINGLE.precision and least >= SINGLE.least_exponent and most <= limit
    return Products(bits, least, most) if fits else None


def plainness(
    products: Products, sums: Target | None, totals: Target | None, terms: int, chunk: int | None
) -> int:
    """`Matmul.plain` of `src/common/accumulation.h`: 2 where each sum `_is_sure`, else 1 where it
    `is_plain`.
    """
    if not is_plain(products.bits, sums, totals):
        return 0
    most = products.most + 2.0
    chunk = min(chunk or terms, terms)
    for target, count in ((sums, chunk), (totals, -(-terms // chunk))):
        if target is not None:
            precision: int = target.format.precision  # type: ignore[attr-defined]
            most += min(
                math.log2(count) + (count + 1) * 2.0**-precision * math.log2(math.e),
                precision + 3,
            )
            if not _is_sure(products.least, most, target):
                return 1
    return 2


def _is_sure(least: int, most: float, target: Target) -> bool:
    """Whether sums that are multiples of 2^least and at most 2^most stay below the format's
    greatest number, and lie apart as far as their leading bits have it, or are represented; and
    what is added to round them, 2^(24 - p) of their binade, is at most 2^127.

    most : of sums to nearest. `count` roundings to p bits make them at most (1 + 2^-p)^count times
        as great, or they stop to grow, as `_growth_to_nearest` says.
    """
    f: Any = target.format
    if f.min >= 0:
        return False
    least_steady = _least_steady(f)
    return (
        least_steady is not None
        and least >= least_steady
        and most + 0.01 < min(104.0 + f.precision, math.log2(min(f.max, -f.min)))
    )


@lru_cache(maxsize=1024)
def _least_steady(f: Any) -> int | None:
    """Binade of the least positive number, if it is a power of two, of whose multiples the format
    has those of its precision; else None.
    """
    fraction, exponent = math.frexp(f.min_positive)
    least, (binades, quanta) = exponent - 1, f.sample()
    by_lead = binades - (f.precision - 1)
    steady = (quanta == by_lead) | (quanta <= least) | (binades < least)
    return least if fraction == 0.5 and steady.all() and quanta[-1] == by_lead[-1] else None


def is_plain(bits: int, sums: Target | None, totals: Target | None) -> bool:
    """Whether one rounding of sums to nearest in float32, before that to their formats, changes
    nothing (`src/cpu/plain_sums.h`): products of so many bits, and sums in totals, have no more
    than the results, these no more than 10, and ties go to even.
    """
    for target in (sums, totals):
        if target is None:
            continue
        precision: int = target.format.precision  # type: ignore[attr-defined]
        if target.rounding != NEAREST or not bits <= precision <= 10:
            return False
        bits = precision
    return sums is not None


def _is_representable(target: Target) -> bool:
    f: Any = target.format
    return (
        isinstance(f, BinadeFormat)
        and f.precision <= SINGLE.precision
        and f.least_exponent >= SINGLE.least_exponent
        and max(f.max, -f.min) <= SINGLE.max
    )


def _shows(target: Target) -> bool:
    precision: int = target.format.precision  # type: ignore[attr-defined]
    return precision + target.rounding.random_bits + 2 <= SINGLE.precision


def _is_small(target: Target) -> bool:
    f: Any = target.format
    return bool(max(f.max, -f.min) < 2.0**MOST)


def _growth(targets: list[Target], terms: int) -> float:
    """The binades by which roundings and sums of so many terms, each below 2^(binade + 2) or the
    least positive number, may exceed these.

    A rounding to p bits makes a number at most 1 + u times as large, u = 2^(1 - p), or the least
    positive one. Each product meets at most 2·terms roundings of sums, and e^(2·terms·u) bounds
    what these make of it; its own doubles it.
    """
    precisions: list[int] = [target.format.precision for target in targets]  # type: ignore[attr-defined]
    least = 2.0 ** (1 - min(precisions))
    return math.log2(4 * terms) + 2 * terms * least * math.log2(math.e)


def _growth_to_nearest(sums: list[Target]) -> float:
    """The same of sums to nearest, of any number of terms.

    What is added, at most P, does not move a sum to whose neighbour it is more than 2·P. From
    E = 2^(p + 1)·P' on, P' the power of two from P on, all neighbours are 4·P' apart, or more. So a
    sum never passes the first number from E on, which a step that moves one below E, of at most
    2·P', does not take beyond 2·E.
    """
    precisions: list[int] = [target.format.precision for target in sums]  # type: ignore[attr-defined]
    return sum(precision + 3 for precision in precisions) + 2.0
