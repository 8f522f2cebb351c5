"""Elementary operations rounded once (clauses OPS)."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

from .exact import NAN, is_negative
from .sums import Quantizer, is_odd, odd, rounded

OPERATIONS = ("add", "subtract", "multiply", "divide", "sqrt")


def operate(
    operation: str, a: float, b: float, quantizer: Quantizer, dtype: str, word: int = 0
) -> float:
    """OPS-1, OPS-2: one element; `b` is not looked at by sqrt, `dtype` is that of the source."""
    exact: Callable[[float, float], float] = EXACT[operation]
    return rounded(
        exact(a, b) if dtype != "float64" else NEAR.get(operation, exact)(a, b), quantizer, word
    )


def _quotient(a: float, b: float) -> float:
    if (
        math.isnan(a)
        or math.isnan(b)
        or not math.isfinite(a)
        or not math.isfinite(b)
        or not a
        or not b
    ):
        return _special_quotient(a, b)
    return _odd_between(
        float(ratio := Fraction(a) / Fraction(b)), lambda near: ratio - Fraction(near)
    )


def _near_quotient(a: float, b: float) -> float:
    return a / b if b else _special_quotient(a, b)


def _special_quotient(a: float, b: float) -> float:
    """Where an operand is zero, infinite or NaN."""
    sign = -1.0 if is_negative(a) != is_negative(b) else 1.0
    if math.isnan(a) or math.isnan(b) or (not a and not b) or (math.isinf(a) and math.isinf(b)):
        return NAN
    return math.copysign(math.inf if math.isinf(a) or not b else 0.0, sign)


def _root(x: float, _: float) -> float:
    if not x > 0 or math.isinf(x):
        return _near_root(x, _)
    return _odd_between(math.sqrt(x), lambda near: Fraction(x) - Fraction(near) ** 2)


def _near_root(x: float, _: float) -> float:
    return NAN if x < 0 else math.sqrt(x)


def _odd_between(near: float, left: Callable[[float], Fraction]) -> float:
    """SUM-3: odd of the number that rounds to `near`; `left` is positive where it lies above."""
    rest = left(near)
    if not rest or is_odd(near):
        return near
    return math.nextafter(near, math.inf if rest > 0 else -math.inf)


EXACT: dict[str, Callable[[float, float], float]] = {
    "add": odd,
    "subtract": lambda a, b: odd(a, -b),
    "multiply": lambda a, b: a * b,
    "divide": _quotient,
    "sqrt": _root,
}
NEAR: dict[str, Callable[[float, float], float]] = {"divide": _near_quotient, "sqrt": _near_root}
"""Of float64 sources, where they differ."""
