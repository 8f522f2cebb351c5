"""The float32 steps by which ggml makes blocks (clauses BLK-18 and BLK-19)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from .binary32 import LARGEST, divide, multiply, nearest
from .exact import is_negative

RULES = ("ggml", "ggml_signed", "ggml_minimum")


class Steps(NamedTuple):
    """What the steps give of a block before it has a scale of the format."""

    quotient: float
    """d without its sign."""
    inverse: float
    negative: bool = False
    low: float | None = None


def steps(elements: Sequence[float], rule: str, most: Fraction, least: Fraction) -> Steps:
    """BLK-18, BLK-19: of elements from `least` to `most`."""
    finite = [x for x in elements if math.isfinite(x)] or [0.0]
    low, negative = None, False
    first = max(finite, key=abs)
    match rule:
        case "ggml":
            quotient = divide(abs(first), float(most))
        case "ggml_signed":
            quotient, negative = divide(abs(first), float(-least)), not is_negative(first)
        case _:
            low = min(finite) + 0.0
            quotient = divide(_above(max(finite), low), float(most))
    inverse = min(divide(1.0, quotient), LARGEST) if quotient else 0.0
    return Steps(min(quotient, LARGEST), inverse, negative, low)


def _above(x: float, low: float) -> float:
    return min(nearest(Fraction(x) - Fraction(low)), LARGEST)


def centred(
    x: float, inverse: float, negative: bool, low: float | None, least: Fraction
) -> Fraction:
    """BLK-19: (y + c) - c."""
    if low is not None:
        y, c = multiply(_above(x, low), inverse), Fraction(1, 2)
    else:
        y, c = multiply(abs(x), inverse), Fraction(1, 2) - least
        y = -y if is_negative(x) != negative else y
    return Fraction(nearest(Fraction(y) + c)) - c
