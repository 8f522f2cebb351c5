"""The elementwise operations of `qemu_swalp.training.functional` on tensors of any backend, each
rounded by the rules of one call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

import qemu_swalp

from ..backend import dtype_of, wide
from ..calls.core import by_core, is_zero, random_of
from ..calls.rules import ElementwiseRules
from ..layers.straight_through import Rule, as_loss_scaling_needs, keeps_overflow
from .function_table import EVALUATED

PLAIN: dict[str, Callable[..., Any]] = {
    "add": ops.add,
    "subtract": ops.subtract,
    "multiply": ops.multiply,
    "divide": ops.divide,
    "sqrt": ops.sqrt,
    "sum": lambda x: ops.sum(x, axis=-1, keepdims=True),
    **EVALUATED,
}
"""The operations unrounded."""

KINDS = {"subtract": "add", **dict.fromkeys(EVALUATED, "function")}
"""Of those that are no kind of their own."""


class RoundedArithmetic:
    """An `Arithmetic` by the rules of one call, forward or backward. Nothing has a gradient.

    state : a `State`.
    """

    def __init__(self, rules: ElementwiseRules, state: Any, direction: str) -> None:
        self.rules, self.state, self.direction, self.count = rules, state, direction, 0

    def _rounded(self, operation: str, *operands: Any) -> Any:
        dtype = dtype_of(next(x for x in operands if ops.is_tensor(x)))
        tensors = [x if ops.is_tensor(x) else ops.convert_to_tensor(x, dtype) for x in operands]
        rule = self.rules.of(f"{self.direction}.{KINDS.get(operation, operation)}", self.count)
        self.count += 1
        if rule is None:
            return PLAIN[operation](*tensors)
        return operate(operation, tensors, rule, self.state)

    def add(self, a: Any, b: Any) -> Any:
        return self._rounded("add", a, b)

    def subtract(self, a: Any, b: Any) -> Any:
        return self._rounded("subtract", a, b)

    def multiply(self, a: Any, b: Any) -> Any:
        return self._rounded("multiply", a, b)

    def divide(self, a: Any, b: Any) -> Any:
        return self._rounded("divide", a, b)

    def sqrt(self, x: Any) -> Any:
        return self._rounded("sqrt", x)

    def exp(self, x: Any) -> Any:
        return self._rounded("exp", x)

    def log(self, x: Any) -> Any:
        return self._rounded("log", x)

    def tanh(self, x: Any) -> Any:
        return self._rounded("tanh", x)

    def erf(self, x: Any) -> Any:
        return self._rounded("erf", x)

    def sum(self, x: Any) -> Any:
        return self._rounded("sum", x)

    def function(self, name: str, x: Any, *constants: float) -> Any:
        """One of `FUNCTIONS`, or the `slope` of one."""
        return self._rounded(name, x, *constants)

    def greatest(self, x: Any) -> Any:
        return ops.max(x, axis=-1, keepdims=True)


def operate(operation: str, tensors: list[Any], rule: Rule, state: Any) -> Any:
    """The operation rounded where that is enabled; without gradient."""
    step, enabled, *_ = state
    off = is_zero(enabled)
    if off is True:
        return PLAIN[operation](*tensors)
    result = _rounded(operation, tensors, rule, step)
    if keeps_overflow(rule, result):
        result = as_loss_scaling_needs(result, PLAIN[operation](*tensors), rule)
    return result if off is False else ops.where(off, PLAIN[operation](*tensors), result)


def _rounded(operation: str, tensors: list[Any], rule: Rule, step: Any) -> Any:
    first, quantizer = tensors[0], rule.quantizer
    if operation == "sum":
        accumulation: Any = quantizer

        def summed(x: Any, step: Any) -> Any:
            random = random_of(rule, step)
            return qemu_swalp.sum(x, accumulation, keepdims=True, random=random)

        return by_core(summed, tensors, step, (*first.shape[:-1], 1), loops=True)
    if KINDS.get(operation) == "function":
        with wide():
            value = PLAIN[operation](*(ops.cast(x, "float64") for x in tensors))
            rounded = by_core(
                lambda x, step: quantizer(x, random_of(rule, step)), [value], step, value.shape
            )
            return ops.cast(rounded, dtype_of(first))
    function: Any = getattr(qemu_swalp, operation)
    return by_core(
        lambda *given: function(*given[:-1], quantizer, random=random_of(rule, given[-1])),
        tensors,
        step,
        _broadcast(*(x.shape for x in tensors)),
    )


def _broadcast(first: Any, *others: Any) -> tuple[int | None, ...]:
    """The common shape; None for lengths that a trace leaves open."""
    shape = tuple(first)
    for other in others:
        rank = max(len(shape), len(other))
        a, b = ((1,) * (rank - len(x)) + tuple(x) for x in (shape, other))
        shape = tuple(_common(m, n) for m, n in zip(a, b, strict=True))
    return shape


def _common(m: int | None, n: int | None) -> int | None:
    if 1 in (m, n):
        return n if m == 1 else m
    return n if m is None else m
