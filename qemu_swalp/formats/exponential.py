"""Irrational powers, exactly enough: as numbers that every float64 compares with as with the power
itself.
"""

from __future__ import annotations

from decimal import Context, Decimal
from fractions import Fraction

_CONTEXT = Context(prec=40)
_LN2 = _CONTEXT.ln(Decimal(2))
_ERROR = Fraction(1, 10**32)
"""Relative; far above what the roundings of 40 digits add up to, even where |exponent| is 1000."""


def power_of_two(exponent: Fraction) -> Fraction:
    """2^exponent; exact where that is rational."""
    if exponent.denominator == 1:
        return Fraction(2) ** exponent.numerator
    return _exponential(_CONTEXT.multiply(_decimal(exponent), _LN2))


def power_of_root_e(exponent: Fraction) -> Fraction:
    """√e^exponent; exact for 0."""
    return Fraction(1) if exponent == 0 else _exponential(_decimal(exponent / 2))


def _decimal(x: Fraction) -> Decimal:
    return _CONTEXT.divide(Decimal(x.numerator), Decimal(x.denominator))


def _exponential(exponent: Decimal) -> Fraction:
    value = Fraction(_CONTEXT.exp(exponent))
    low, high = value * (1 - _ERROR), value * (1 + _ERROR)
    near = float(low)
    if near != float(high) or low <= near <= high:
        raise ArithmeticError(f"40 digits do not tell e^{exponent} from a float64")
    return value


def round_to_float(value: Fraction, mantissa: int, least_exponent: int) -> float:
    """The nearest float with so many mantissa bits, ties to even, in multiples of 2^least_exponent;
    value > 0.
    """
    e = value.numerator.bit_length() - value.denominator.bit_length()
    e -= value < Fraction(2) ** e
    unit = Fraction(2) ** max(e - mantissa, least_exponent)
    return float(round(value / unit) * unit)
