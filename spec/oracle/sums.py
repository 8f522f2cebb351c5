"""Sums of products with every partial sum rounded (clauses SUM)."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

from .elements import Element
from .randombits import WORD, philox
from .rounding import quantize

PRODUCT, SUM, TOTAL = 1, 2, 3
"""SUM-5: κ."""

Quantizer = tuple[Element, str]
"""A format and a rounding."""


class Accumulation(NamedTuple):
    """SUM-1."""

    sum: Quantizer
    product: Quantizer | None = None
    group: int = 1
    chunk: int | None = None
    total: Quantizer | None = None


def odd(x: float, y: float) -> float:
    """SUM-3: odd(x + y)."""
    near = x + y
    if (
        not math.isfinite(near)
        or Fraction(near) == (exact := Fraction(x) + Fraction(y))
        or is_odd(near)
    ):
        return near
    return math.nextafter(near, math.inf if exact > Fraction(near) else -math.inf)


def is_odd(x: float) -> bool:
    """Whether the last significand bit is 1."""
    return bool(struct.unpack("<Q", struct.pack("<d", x))[0] & 1)


def sum_of_products(
    a: Sequence[float],
    b: Sequence[float],
    rule: Accumulation,
    word: Callable[[int, int], int] = lambda kind, n: 0,
) -> float:
    """SUM-2 to SUM-5: one element of a product; `word(κ, n)` is its random word in rounding n of
    kind κ.

    An element of a source dtype narrower than float64 is this number exactly.
    """
    chunk = rule.chunk or len(a)
    total, t, sums = 0.0, 0.0, 0
    for start in range(0, len(a), chunk or 1):
        t = 0.0
        terms = list(zip(a, b, strict=True))[start : start + chunk]
        for i, (x, y) in enumerate(terms):
            p = x * y  # exact where two significands take 53 bits
            if rule.product is not None:
                p = rounded(p, rule.product, word(PRODUCT, start + i))
            t = odd(t, p)
            if (i + 1) % rule.group == 0 or i + 1 == len(terms):
                t = rounded(t, rule.sum, word(SUM, sums))
                sums += 1
        if rule.chunk:
            total = rounded(odd(total, t), rule.total or rule.sum, word(TOTAL, start // chunk))
    return total if rule.chunk else t


def rounded(x: float, quantizer: Quantizer, word: int) -> float:
    """Q(x), Q a format and a rounding."""
    fmt, rounding = quantizer
    return quantize(x, fmt, rounding, word)


def part_key(seed: int, stream: int, n: int, kind: int) -> tuple[int, int]:
    """SUM-5: (k0, k1)."""
    words = philox((stream % WORD, stream // WORD, n, kind), (seed % WORD, seed // WORD))
    return words[0], words[1]
