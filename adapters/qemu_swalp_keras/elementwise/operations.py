"""What functions of Keras's backends are made of, at one call of a layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

from ..backend import differentiable_tensor, dtype_of, is_number
from ..calls.rules import ElementwiseRules
from ..calls.scope import Scope
from . import normalize, pointwise

Axes = int | Sequence[int] | None


class Operations:
    """Differentiable operations, each rounded, and selections among numbers, which are exact.

    Each call has random streams of its own.
    """

    def __init__(self, scope: Scope, rules: ElementwiseRules) -> None:
        self.scope, self.rules, self.state = scope, rules, scope.state

    def next(self) -> ElementwiseRules:
        """The rules of the next function."""
        return self.scope.numbered(self.rules)

    def function(self, name: str, *operands: Any) -> Any:
        """An operation, or one of `FUNCTIONS`, of tensors and numbers."""
        return pointwise.apply(name, self.next(), self.state, *operands)

    def formula(self, name: str, x: Any) -> Any:
        """One of `qemu_swalp.training.functional.FORMULAS`."""
        return pointwise.formula(name, self.next(), self.state, x)

    def add(self, a: Any, b: Any) -> Any:
        return self.function("add", a, b)

    def subtract(self, a: Any, b: Any) -> Any:
        return self.function("subtract", a, b)

    def multiply(self, a: Any, b: Any) -> Any:
        return self.function("multiply", a, b)

    def divide(self, a: Any, b: Any) -> Any:
        return self.function("divide", a, b)

    def sqrt(self, x: Any) -> Any:
        return self.function("sqrt", x)

    def exp(self, x: Any) -> Any:
        return self.function("exp", x)

    def log(self, x: Any) -> Any:
        return self.function("log", x)

    def tanh(self, x: Any) -> Any:
        return self.function("tanh", x)

    def square(self, x: Any) -> Any:
        return self.multiply(x, x)

    def softplus(self, x: Any, threshold: float = 20) -> Any:
        return self.function("softplus", x, 1, threshold)

    def sum(self, x: Any, axis: Axes = None, keepdims: bool = False) -> Any:
        return self.summed(x, axis, keepdims)[0]

    def summed(self, x: Any, axis: Axes, keepdims: bool) -> tuple[Any, Any]:
        """The sum, and of how many terms."""
        rank = len(x.shape)
        axes = range(rank) if axis is None else [axis] if isinstance(axis, int) else axis
        axes = [d % rank for d in axes]
        lengths = ops.shape(x)
        total = self.function("sum", pointwise.rows(x, axes))
        shape = [1 if d in axes else n for d, n in enumerate(lengths) if keepdims or d not in axes]
        counts = [lengths[d] for d in axes]
        count = math.prod(n for n in counts if isinstance(n, int))
        for n in counts:
            if not isinstance(n, int):
                count = count * ops.cast(n, dtype_of(x))
        return ops.reshape(total, shape), count

    def mean(self, x: Any, axis: Axes = None, keepdims: bool = False) -> Any:
        total, count = self.summed(x, axis, keepdims)
        return self.divide(total, count)

    def moments(self, x: Any, axis: Axes, keepdims: bool = False) -> tuple[Any, Any]:
        """Mean and mean square of the distance from it."""
        mean = self.mean(x, axis, True)
        variance = self.mean(self.square(self.subtract(x, mean)), axis, keepdims)
        return ops.reshape(mean, ops.shape(variance)), variance

    def reciprocal_root(self, x: Any) -> Any:
        return self.divide(1.0, self.sqrt(x))

    def power(self, x: Any, exponent: Any) -> Any:
        """Squares and cubes by products, roots by roots; else one function."""
        if not is_number(exponent) or is_number(x):
            return self.function("power", x, exponent)
        if exponent in (2, 3):
            square = self.square(x)
            return square if exponent == 2 else self.multiply(square, x)
        if exponent == 0.5:
            return self.sqrt(x)
        if exponent == -0.5:
            return self.reciprocal_root(x)
        if exponent == -1:
            return self.divide(1.0, x)
        return x if exponent == 1 else self.function("power", x, exponent)

    def where_positive(self, function: Callable[[Any], Any], x: Any) -> Any:
        """The function, and x itself where that is 0 or NaN, without gradient: so that norms and
        deviations have the gradient 0 at 0, as in PyTorch.
        """
        positive = x > 0
        value = function(ops.where(positive, x, ops.ones_like(x)))
        return ops.where(positive, value, ops.stop_gradient(x))

    def norm(self, x: Any, p: float, axis: Axes, keepdims: bool) -> Any:
        """Of vectors.

        ValueError unless the order is positive.
        """
        if p <= 0:
            raise ValueError(
                f"norms of positive order are rounded, got {p!r}; exclude the layer, or compute the"
                " norm outside of it"
            )
        if p == math.inf:
            return ops.max(ops.abs(x), axis, keepdims=keepdims)
        if p == 1:
            return self.sum(ops.abs(x), axis, keepdims)
        if p == 2:
            return self.where_positive(self.sqrt, self.sum(self.square(x), axis, keepdims))
        powers = self.where_positive(lambda size: self.power(size, p), ops.abs(x))
        total = self.sum(powers, axis, keepdims)
        return self.where_positive(lambda total: self.power(total, 1 / p), total)

    def standardized(self, x: Any, eps: float, centered: bool, rules: ElementwiseRules) -> Any:
        """As `normalize.standardize`."""
        return normalize.standardize(x, eps, centered, rules, self.state)

    where = staticmethod(ops.where)
    absolute = staticmethod(ops.abs)

    @staticmethod
    def clip(x: Any, low: float | None, high: float | None) -> Any:
        """With the gradient 1 at the bounds, where that of `ops.maximum` is one half."""
        x = x if low is None else ops.where(x < low, low, x)
        return x if high is None else ops.where(x > high, high, x)


def operand(x: Any, dtype: str) -> Any:
    """A tensor of a dtype, with its gradient; Python numbers stay what they are."""
    return x if is_number(x) else differentiable_tensor(x, dtype)
