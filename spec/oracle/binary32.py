"""The float32 steps of two levels of scales (clauses BLK-9 and BLK-11). Positive floats in,
positive floats out.
"""

from __future__ import annotations

import math
from fractions import Fraction

from .exact import binade, carrier, power
from .families import BINARY32, Float
from .rounding import quantize

LARGEST = carrier(BINARY32.high)
LEAST = carrier(BINARY32.least)


def in_dtype(x: Fraction, dtype: Float, toward_zero: bool = False) -> float:
    """x in a dtype of IEEE style, to nearest even or toward zero; its greatest number beyond its
    range.

    By the binade alone, where `quantize` would search among 2^32 or 2^64 numbers; the tests compare
    the two.
    """
    if x == 0:
        return 0.0
    unit = power(max(binade(abs(x)), 1 - dtype.offset) - dtype.mantissa)
    n = (
        abs(x) // unit if toward_zero else round(abs(x) / unit)
    )  # `round` of a Fraction goes to even on ties
    return math.copysign(carrier(min(n * unit, dtype.high)), x)


def nearest(x: Fraction) -> float:
    """The binary32 number next to x, infinity beyond them."""
    beyond = BINARY32.high + (power(104) / 2)
    return math.inf if x >= beyond else in_dtype(x, BINARY32)


def multiply(a: float, b: float) -> float:
    """One rounding; zero times infinity is zero."""
    if a == 0 or b == 0:
        return 0.0
    return math.inf if math.isinf(a) or math.isinf(b) else nearest(Fraction(a) * Fraction(b))


def divide(a: float, b: float) -> float:
    """One rounding; zero divided by zero is zero."""
    if a == 0:
        return 0.0
    return math.inf if math.isinf(a) or b == 0 else nearest(Fraction(a) / Fraction(b))


def global_scale(whole: Fraction, aim: Fraction, most: Fraction) -> float:
    """BLK-9: g, by which the greatest scale of a block is `most`."""
    return max(divide(divide(float(whole), float(aim)), float(most)), LEAST)


def under_global(amax: Fraction, aim: Fraction, second: float, scale: Float) -> float:
    """BLK-9: the scale of a block under g."""
    own = quantize(divide(divide(float(amax), float(aim)), second), scale, policy="saturate")
    return max(own, float(scale.least))


def two_levels(
    amax: Fraction, whole: Fraction, rule: str, aim: Fraction, scale: Float
) -> tuple[float, float | None, float]:
    """(scale of the block, what x is multiplied by, scale of the array)."""
    a, top, high, ends = float(amax), float(whole), float(aim), float(scale.high)
    match rule:
        case "nearest":
            second = global_scale(whole, aim, scale.high)
            return under_global(amax, aim, second, scale), None, second
        case "transformer_engine":
            encode = min(divide(high * ends, top), LARGEST) if top else 1.0
            own = quantize(
                min(multiply(a, multiply(encode, divide(1.0, 6.0))), LARGEST),
                scale,
                policy="saturate",
            )
            return own, min(divide(1.0, multiply(own, divide(1.0, encode))), LARGEST), top
    second = divide(top, high * ends)
    own = quantize(
        min(max(divide(divide(a, high), second), float(power(-6))), ends), scale, policy="saturate"
    )
    return own, divide(divide(1.0, second), own), second


def effective(rule: str, own: float, second: float) -> float:
    """What an element is multiplied by."""
    found = multiply(own, second)
    if rule == "transformer_engine":
        found = multiply(found, divide(1.0, 2688.0))
    return min(max(found, LEAST) if rule == "nearest" else found, LARGEST)
