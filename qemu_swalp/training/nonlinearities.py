"""Nonlinearities made of differentiable elementwise operations, each rounded: the formulas of both
adapters.

`ops` computes with tensors of a library: `add`, `subtract`, `multiply`, `divide`, `tanh` and
`function(name, x, …)` round; `where`, `clip` and `absolute` select numbers exactly. The gradient of
`clip` is 1 at the bounds, too: at 0, which low precision has often, a nonlinearity has the gradient
that the libraries give it.
"""

from __future__ import annotations

from typing import Any, Protocol


class Operations(Protocol):
    """Differentiable operations on tensors that broadcast, and selections among numbers."""

    def add(self, a: Any, b: Any) -> Any: ...
    def subtract(self, a: Any, b: Any) -> Any: ...
    def multiply(self, a: Any, b: Any) -> Any: ...
    def divide(self, a: Any, b: Any) -> Any: ...
    def tanh(self, x: Any) -> Any: ...
    def function(self, name: str, x: Any, *constants: float) -> Any: ...
    def where(self, condition: Any, a: Any, b: Any) -> Any: ...
    def clip(self, x: Any, low: float | None, high: float | None) -> Any: ...
    def absolute(self, x: Any) -> Any: ...


def mish(ops: Operations, x: Any) -> Any:
    """x·tanh(softplus(x)) (Misra 2019, arXiv 1908.08681)."""
    return ops.multiply(x, ops.tanh(ops.function("softplus", x, 1, 20)))


def elu(ops: Operations, x: Any, alpha: float = 1.0) -> Any:
    """x above 0, else α·(exp(x) - 1) (Clevert et al. 2015, arXiv 1511.07289)."""
    negative = ops.function("expm1", ops.clip(x, None, 0.0))
    return ops.where(x > 0, x, negative if alpha == 1 else ops.multiply(negative, alpha))


def celu(ops: Operations, x: Any, alpha: float = 1.0) -> Any:
    """x above 0, else α·(exp(x/α) - 1) (Barron 2017, arXiv 1704.07483)."""
    low = ops.clip(x, None, 0.0)
    inner = ops.function("expm1", low if alpha == 1 else ops.divide(low, alpha))
    return ops.where(x > 0, x, inner if alpha == 1 else ops.multiply(inner, alpha))


def selu(ops: Operations, x: Any) -> Any:
    """Constants of Klambauer et al. 2017, arXiv 1706.02515."""
    alpha, scale = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
    return ops.multiply(elu(ops, x, alpha), scale)


def leaky_relu(ops: Operations, x: Any, slope: float) -> Any:
    """x above 0, else slope·x."""
    return ops.where(x > 0, x, ops.multiply(x, slope))


def hard_sigmoid(ops: Operations, x: Any) -> Any:
    """(x + 3)/6 between 0 and 1."""
    return ops.divide(_within_6(ops, ops.add(x, 3.0)), 6.0)


def hard_silu(ops: Operations, x: Any) -> Any:
    """x·(x + 3)/6, where x + 3 lies between 0 and 6 (Howard et al. 2019, arXiv 1905.02244)."""
    return ops.divide(ops.multiply(x, _within_6(ops, ops.add(x, 3.0))), 6.0)


def _within_6(ops: Operations, x: Any) -> Any:
    """x between 0 and 6, with the gradient 0 at both."""
    return ops.where(x <= 0, 0.0, ops.where(x >= 6, 6.0, x))


def softsign(ops: Operations, x: Any) -> Any:
    """x/(|x| + 1)."""
    return ops.divide(x, ops.add(ops.absolute(x), 1.0))


def tanh_shrink(ops: Operations, x: Any) -> Any:
    """x - tanh(x)."""
    return ops.subtract(x, ops.tanh(x))
