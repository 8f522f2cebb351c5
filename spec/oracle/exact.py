"""Floats at the edges, fractions inside."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache

NAN = math.nan
DETERMINISTIC = (
    "nearest_even",
    "nearest_away",
    "toward_zero",
    "toward_positive",
    "toward_negative",
    "to_odd",
)
TIES = ("nearest_zero", "nearest_up")
STOCHASTIC = ("stochastic_a", "stochastic_b", "stochastic_c")
POLICIES = ("saturate", "propagate", "infinity", "nan")
REACH = 1100  # 2^-REACH is less than every positive float64, 2^REACH greater than every finite one


@cache
def power(exponent: int) -> Fraction:
    """2^exponent."""
    return Fraction(2) ** exponent


def carrier(value: Fraction) -> float:
    """The float that equals `value`."""
    number = float(value)
    if Fraction(number) != value:
        raise ValueError(f"{value} is not a float64")
    return number


def binade(magnitude: Fraction) -> int:
    """The integer e with 2^e <= magnitude < 2^(e+1)."""
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    return exponent if power(exponent) <= magnitude else exponent - 1


def is_negative(number: float) -> bool:
    """The sign of a float, of -0 too."""
    return math.copysign(1.0, number) < 0
