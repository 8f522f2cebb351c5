"""Softmax, normalization and nonlinearities as the elementwise operations of a vector unit, forward
and backward.

Each function calls the operations of an `Arithmetic`, which rounds their results. Without rounding
they are the textbook functions and their gradients. `g` is the gradient with respect to the output.
Rows lie along the last axis, along which sums and maxima are computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

ELEMENTWISE = tuple(
    f"{direction}.{kind}"
    for direction in ("forward", "backward")
    for kind in ("add", "multiply", "divide", "sqrt", "function", "sum")
)
"""Kinds of operations: "add" includes subtraction, "function" is exp, log, tanh and erf, "sum" the
sum of a row.
"""


class Arithmetic(Protocol):
    """Elementwise operations on arrays that broadcast, and the sum of a row.

    Each rounds its result by the rule of its kind, one of `ELEMENTWISE`.
    """

    def add(self, a: Any, b: Any) -> Any: ...
    def subtract(self, a: Any, b: Any) -> Any: ...
    def multiply(self, a: Any, b: Any) -> Any: ...
    def divide(self, a: Any, b: Any) -> Any: ...
    def sqrt(self, x: Any) -> Any: ...
    def exp(self, x: Any) -> Any: ...
    def log(self, x: Any) -> Any: ...
    def tanh(self, x: Any) -> Any: ...
    def erf(self, x: Any) -> Any: ...

    def function(self, name: str, x: Any, *constants: float) -> Any:
        """Another function, or the `derivatives.slope` of one."""

    def sum(self, x: Any) -> Any:
        """The sum of each row, of shape (…, 1)."""

    def greatest(self, x: Any) -> Any:
        """The maximum of each row, of shape (…, 1). It selects a number, so nothing is rounded."""


def softmax(ops: Arithmetic, x: Any) -> Any:
    """y = e / Σ e, where e = exp(x - max x)."""
    e = ops.exp(ops.subtract(x, ops.greatest(x)))
    return ops.divide(e, ops.sum(e))


def softmax_gradient(ops: Arithmetic, y: Any, g: Any) -> Any:
    """y·(g - Σ g·y), where y is the output of `softmax`."""
    return ops.multiply(y, ops.subtract(g, ops.sum(ops.multiply(g, y))))


def log_softmax(ops: Arithmetic, x: Any) -> Any:
    """y = d - log Σ exp d, where d = x - max x."""
    d = ops.subtract(x, ops.greatest(x))
    return ops.subtract(d, ops.log(ops.sum(ops.exp(d))))


def log_softmax_gradient(ops: Arithmetic, y: Any, g: Any) -> Any:
    """g - exp(y)·Σ g, where y is the output of `log_softmax`."""
    return ops.subtract(g, ops.multiply(ops.exp(y), ops.sum(g)))


def moments(ops: Arithmetic, x: Any, count: int, centered: bool) -> tuple[Any, Any, Any]:
    """Mean μ of each row of `count` numbers (None unless centered), x - μ, and mean (x - μ)²."""
    mean, d = None, x
    if centered:
        mean = ops.divide(ops.sum(x), count)
        d = ops.subtract(x, mean)
    return mean, d, ops.divide(ops.sum(ops.multiply(d, d)), count)


def reciprocal_root(ops: Arithmetic, variance: Any, eps: float) -> Any:
    """r = 1/√(variance + ε)."""
    return ops.divide(1.0, ops.sqrt(ops.add(variance, eps)))


def standardized_gradient(
    ops: Arithmetic, z: Any, r: Any, g: Any, count: int, centered: bool
) -> Any:
    """r·(g - mean g - z·mean(g·z)), the gradient of z = (x - μ)·r; without mean g unless centered.

    `count` is the number of elements in a row.
    """
    projection = ops.multiply(z, ops.divide(ops.sum(ops.multiply(g, z)), count))
    if centered:
        g = ops.subtract(g, ops.divide(ops.sum(g), count))
    return ops.multiply(ops.subtract(g, projection), r)


def sigmoid(ops: Arithmetic, x: Any) -> Any:
    """1/(1 + exp(-x))."""
    return ops.divide(1.0, ops.add(ops.exp(-x), 1.0))


def sigmoid_gradient(ops: Arithmetic, y: Any, g: Any) -> Any:
    """g·y·(1 - y), where y is the output of `sigmoid`."""
    return ops.multiply(g, ops.multiply(y, ops.subtract(1.0, y)))


def tanh_gradient(ops: Arithmetic, y: Any, g: Any) -> Any:
    """g·(1 - y²), where y = tanh x."""
    return ops.multiply(g, ops.subtract(1.0, ops.multiply(y, y)))


def silu(ops: Arithmetic, x: Any) -> Any:
    """x·sigmoid(x)."""
    return ops.multiply(x, sigmoid(ops, x))


def silu_gradient(ops: Arithmetic, x: Any, g: Any) -> Any:
    """g·s·(1 + x·(1 - s)), where s = sigmoid(x)."""
    s = sigmoid(ops, x)
    return ops.multiply(g, ops.multiply(s, ops.add(ops.multiply(x, ops.subtract(1.0, s)), 1.0)))


def gelu(ops: Arithmetic, x: Any) -> Any:
    """x/2·(1 + erf(x/√2)) (Hendrycks and Gimpel 2016, arXiv 1606.08415)."""
    return ops.multiply(
        ops.multiply(x, 0.5), ops.add(ops.erf(ops.multiply(x, math.sqrt(0.5))), 1.0)
    )


def gelu_gradient(ops: Arithmetic, x: Any, g: Any) -> Any:
    """g·(Φ(x) + x·φ(x)), Φ and φ the normal distribution and its density."""
    distribution = ops.multiply(ops.add(ops.erf(ops.multiply(x, math.sqrt(0.5))), 1.0), 0.5)
    density = ops.multiply(
        ops.exp(ops.multiply(ops.multiply(x, x), -0.5)), 1 / math.sqrt(2 * math.pi)
    )
    return ops.multiply(g, ops.add(distribution, ops.multiply(x, density)))


CUBIC, SLOPE = 0.044715, math.sqrt(2 / math.pi)
"""Constants of GELU's approximation by tanh (arXiv 1606.08415, section 2)."""


def tanh_gelu(ops: Arithmetic, x: Any) -> Any:
    """x/2·(1 + tanh u), u = √(2/π)·(x + 0.044715·x³)."""
    return ops.multiply(
        ops.multiply(x, 0.5), ops.add(_tanh_of_cubic(ops, x, ops.multiply(x, x)), 1.0)
    )


def tanh_gelu_gradient(ops: Arithmetic, x: Any, g: Any) -> Any:
    """g·((1 + t)/2 + x/2·(1 - t²)·u′), t = tanh u, u′ = √(2/π)·(1 + 3·0.044715·x²)."""
    square = ops.multiply(x, x)
    t = _tanh_of_cubic(ops, x, square)
    slope = ops.multiply(ops.add(ops.multiply(square, 3 * CUBIC), 1.0), SLOPE)
    right = ops.multiply(
        ops.multiply(x, 0.5), ops.multiply(ops.subtract(1.0, ops.multiply(t, t)), slope)
    )
    return ops.multiply(g, ops.add(ops.multiply(ops.add(t, 1.0), 0.5), right))


def _tanh_of_cubic(ops: Arithmetic, x: Any, square: Any) -> Any:
    cube = ops.multiply(ops.multiply(square, x), CUBIC)
    return ops.tanh(ops.multiply(ops.add(x, cube), SLOPE))


FORMULAS: dict[str, tuple[Callable[..., Any], Callable[..., Any], bool]] = {
    "softmax": (softmax, softmax_gradient, True),
    "log_softmax": (log_softmax, log_softmax_gradient, True),
    "sigmoid": (sigmoid, sigmoid_gradient, True),
    "tanh": (lambda ops, x: ops.tanh(x), tanh_gradient, True),
    "silu": (silu, silu_gradient, False),
    "gelu": (gelu, gelu_gradient, False),
    "tanh_gelu": (tanh_gelu, tanh_gelu_gradient, False),
}
"""Function, gradient, and whether that is of the output, else of the input."""
