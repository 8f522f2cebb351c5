"""Which products of float32 matrices come out in float32 as they do in float64 (clauses SUM).

Those whose products take at most 24 bits within float32's range, so that they are exact there; whose sums are rounded
at once, so that all that is added is exact; where rounding to odd at 24 bits, in place of 53, cannot be told, which
takes two bits beyond the format's and the random ones (Boldo and Melquiond 2008, theorem 1); and which stay below
2^127.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..carriers import CARRIERS
from ..formats import BinadeFormat
from .plan import Rule

SINGLE = CARRIERS["float32"]
MOST = 126
"""Two numbers below 2^126 add up to one below 2^127."""


def suffices(a: np.ndarray, b: np.ndarray, products: Rule | None, sums: list[Rule]) -> bool:
    """Whether float32 will do for a·b, contiguous arrays with elements, each partial sum being rounded."""
    rounded = sums if products is None else [products, *sums]
    if a.dtype != np.float32 or not all(map(_held, rounded)) or not all(map(_shows, sums)):
        return False
    of_a, of_b = _span(a), _span(b)
    if of_a is None or of_b is None:
        return False
    bits, least, most = (one + other for one, other in zip(of_a, of_b, strict=True))
    return (bits <= SINGLE.precision and least >= SINGLE.least_exponent and most + 2 <= MOST
            and (all(map(_is_small, rounded)) or _stays_small(rounded, a.shape[-1], most + 2)))


def _held(rule: Rule) -> bool:
    f: Any = rule.format
    return (isinstance(f, BinadeFormat) and f.precision <= SINGLE.precision
            and f.least_exponent >= SINGLE.least_exponent and max(f.max, -f.min) <= SINGLE.max)


def _shows(rule: Rule) -> bool:
    precision: int = rule.format.precision  # type: ignore[attr-defined]
    return precision + rule.rounding.random_bits + 2 <= SINGLE.precision


def _is_small(rule: Rule) -> bool:
    f: Any = rule.format
    return bool(max(f.max, -f.min) < 2.0**MOST)


def _stays_small(rules: list[Rule], terms: int, exponent: int) -> bool:
    """Whether finite sums of so many products below 2^exponent stay below 2^126.

    A rounding to p bits makes a number at most 1 + u times as large, u = 2^(1 - p), or the least positive one. Each
    product meets at most 2·terms roundings of sums, and e^(2·terms·u) bounds what these make of it; its own doubles it.
    """
    formats: list[Any] = [rule.format for rule in rules]
    u = max(2.0 ** (1 - f.precision) for f in formats)
    least = max(f.min_positive for f in formats)
    largest = max(exponent + 1, math.log2(least)) + 1
    bound: float = largest + math.log2(2 * terms) + 2 * terms * u * math.log2(math.e)
    return bound < MOST


def _span(x: np.ndarray) -> tuple[int, int, int] | None:
    """(bits, binade of the last of them, greatest binade) that hold all numbers; None where one is subnormal or not
    finite.
    """
    magnitudes = x.reshape(-1).view(np.uint32) & 0x7FFFFFFF
    numbers = magnitudes[magnitudes != 0]
    if not numbers.size:
        return 0, 0, 0
    least, most = (int(end) >> SINGLE.mantissa for end in (numbers.min(), numbers.max()))
    if least == 0 or most == 0xFF:
        return None
    used = int(np.bitwise_or.reduce(numbers)) & 0x7FFFFF | 1 << SINGLE.mantissa
    bits = SINGLE.precision - ((used & -used).bit_length() - 1)
    return bits, least - SINGLE.bias - (bits - 1), most - SINGLE.bias
