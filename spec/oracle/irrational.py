"""Irrational powers between rational bounds (clauses FMT-13, FMT-14, RND-12)."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import NamedTuple

from .exact import power

DIGITS = 400  # bits after the point


class Bounds(NamedTuple):
    """A number that is at least `low` and at most `high`; exact where they are equal."""

    low: Fraction
    high: Fraction

    def sign(self, x: Fraction) -> int:
        """-1, 0, 1: x is less than, equal to, greater than the number."""
        if self.low < x < self.high:
            raise ValueError(f"{DIGITS} digits do not tell {float(x)} from the number")
        return (x >= self.high) - (x <= self.low)


def exactly(x: Fraction) -> Bounds:
    """A rational number."""
    return Bounds(x, x)


@cache
def root_of_two(exponent: Fraction) -> Bounds:
    """2^exponent: the greatest integer n with n^d <= 2^(m + d*DIGITS), where exponent is m/d, found
    bit by bit.
    """
    m, d = exponent.numerator, exponent.denominator
    if d == 1:
        return exactly(power(m))
    whole, part = divmod(m, d)
    limit, n = 1 << (part + d * DIGITS), 0
    for bit in range(DIGITS, -1, -1):
        if (n + (1 << bit)) ** d <= limit:
            n += 1 << bit
    unit = power(whole - DIGITS)
    return Bounds(n * unit, (n + 1) * unit)


@cache
def exponential(x: Fraction) -> Bounds:
    """e^x by its series, every term cut to 2^-DIGITS; what is left after a term of less than half
    is less than it.
    """
    if x == 0:
        return exactly(Fraction(1))
    if x < 0:
        inverse = exponential(-x)
        return Bounds(1 / inverse.high, 1 / inverse.low)
    term = total = 1 << DIGITS
    count = 0
    while term or count < 2 * x:
        count += 1
        term = term * x.numerator // (x.denominator * count)
        total += term
    error = power(20) * max(
        1, total >> DIGITS
    )  # each cut grows by at most what the later factors multiply up to
    return Bounds(total * power(-DIGITS), (total + error) * power(-DIGITS))
