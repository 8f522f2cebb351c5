"""Arithmetic, reductions and further nonlinearities of PyTorch, each elementwise operation rounded.

Arguments and shapes are those of PyTorch's functions. Tensors that are not floating are left to
PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from qemu_swalp.training import nonlinearities

from .elementwise import ElementwiseRules
from .pointwise import Number, Operations, apply

Axes = int | Sequence[int] | None


class PointwiseFunctions:
    """The functions at one call of a module; `_next` gives each call its random streams."""

    def __init__(self, rules: ElementwiseRules) -> None:
        self.rules, self.calls = rules, 0

    def _next(self) -> ElementwiseRules:
        rules = self.rules.within(str(self.calls)) if self.calls else self.rules
        self.calls += 1
        return rules

    def _apply(self, name: str, *operands: Number) -> Tensor:
        return apply(name, self._next(), *operands)

    def _of(self, formula: Callable[..., Any], *arguments: Any) -> Tensor:
        """One of `nonlinearities`."""
        result: Tensor = formula(Operations(self._apply), *arguments)
        return result

    def add(self, a: Number, b: Number, *, alpha: float = 1) -> Tensor:
        return self._apply("add", a, b if alpha == 1 else self.mul(b, alpha))

    def sub(self, a: Number, b: Number, *, alpha: float = 1) -> Tensor:
        return self._apply("subtract", a, b if alpha == 1 else self.mul(b, alpha))

    def rsub(self, a: Number, b: Number, *, alpha: float = 1) -> Tensor:
        return self.sub(b, a, alpha=alpha)

    def mul(self, a: Number, b: Number) -> Tensor:
        return self._apply("multiply", a, b)

    def div(self, a: Number, b: Number, *, rounding_mode: str | None = None) -> Tensor:
        quotient = self._apply("divide", a, b)
        if rounding_mode is None:
            return quotient
        return quotient.floor() if rounding_mode == "floor" else quotient.trunc()

    def rdiv(self, a: Number, b: Number) -> Tensor:
        return self.div(b, a)

    def reciprocal(self, x: Tensor) -> Tensor:
        return self.div(1.0, x)

    def square(self, x: Tensor) -> Tensor:
        return self.mul(x, x)

    def sqrt(self, x: Tensor) -> Tensor:
        return self._apply("sqrt", x)

    def rsqrt(self, x: Tensor) -> Tensor:
        return self.div(1.0, self.sqrt(x))

    def exp(self, x: Tensor) -> Tensor:
        return self._apply("exp", x)

    def log(self, x: Tensor) -> Tensor:
        return self._apply("log", x)

    def erf(self, x: Tensor) -> Tensor:
        return self._apply("erf", x)

    def function(self, name: str, x: Tensor, *constants: float) -> Tensor:
        """One of `FUNCTIONS`."""
        return self._apply(name, x, *constants)

    def pow(self, x: Number, exponent: Number) -> Tensor:
        """Squares and cubes by products, roots by roots; else one function."""
        if isinstance(exponent, Tensor) and exponent.ndim == 0 and not exponent.requires_grad:
            exponent = exponent.item()
        if isinstance(exponent, Tensor) or not isinstance(x, Tensor):
            return self._apply("power", x, exponent)
        if exponent in (2, 3):
            square = self.square(x)
            return square if exponent == 2 else self.mul(square, x)
        if exponent == 0.5:
            return self.sqrt(x)
        if exponent == -0.5:
            return self.rsqrt(x)
        if exponent == -1:
            return self.reciprocal(x)
        if exponent == 1:
            return x.clone()
        return self._apply("power", x, exponent)

    def rpow(self, exponent: Tensor, x: Number) -> Tensor:
        return self.pow(x, exponent)

    def addcmul(self, x: Tensor, a: Number, b: Number, *, value: float = 1) -> Tensor:
        product = self.mul(a, b)
        return self.add(x, product if value == 1 else self.mul(product, value))

    def addcdiv(self, x: Tensor, a: Number, b: Number, *, value: float = 1) -> Tensor:
        quotient = self.div(a, b)
        return self.add(x, quotient if value == 1 else self.mul(quotient, value))

    def lerp(self, x: Tensor, end: Tensor, weight: Number) -> Tensor:
        return self.add(x, self.mul(self.sub(end, x), weight))

    def sum(
        self, x: Tensor, dim: Axes = None, keepdim: bool = False, *, dtype: Any = None
    ) -> Tensor:
        return self._summed(x if dtype is None else x.to(dtype), dim, keepdim)[0]

    def _summed(self, x: Tensor, dim: Axes, keepdim: bool) -> tuple[Tensor, int]:
        """The sum, and of how many terms."""
        axes = range(x.ndim) if dim is None or dim == () or dim == [] else dim
        axes = [axes] if isinstance(axes, int) else axes
        summed = [d % x.ndim for d in axes] if x.ndim else []
        kept = [d for d in range(x.ndim) if d not in summed]
        count = math.prod([x.shape[d] for d in summed])
        rows = x.permute([*kept, *summed]).reshape([*[x.shape[d] for d in kept], count])
        shape = [1 if d in summed else x.shape[d] for d in range(x.ndim) if keepdim or d in kept]
        return self._apply("sum", rows).reshape(shape), count

    def mean(
        self, x: Tensor, dim: Axes = None, keepdim: bool = False, *, dtype: Any = None
    ) -> Tensor:
        total, count = self._summed(x if dtype is None else x.to(dtype), dim, keepdim)
        return self.div(total, count)

    def var(
        self,
        x: Tensor,
        dim: Axes | bool = None,
        unbiased: bool = True,
        keepdim: bool = False,
        *,
        correction: float | None = None,
    ) -> Tensor:
        return self.var_mean(x, dim, unbiased, keepdim, correction=correction)[0]

    def var_mean(
        self,
        x: Tensor,
        dim: Axes | bool = None,
        unbiased: bool = True,
        keepdim: bool = False,
        *,
        correction: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        axes: Axes = None if isinstance(dim, bool) else dim
        unbiased = dim if isinstance(dim, bool) else unbiased
        mean = self.mean(x, axes, True)
        total, count = self._summed(self.square(self.sub(x, mean)), axes, keepdim)
        less = (1 if unbiased else 0) if correction is None else correction
        return self.div(total, max(count - less, 0)), mean.reshape(total.shape)

    @wraps(var, assigned=())  # with its parameters
    def std(self, *arguments: Any, **options: Any) -> Tensor:
        return self.where_positive(self.sqrt, self.var(*arguments, **options))

    @wraps(var_mean, assigned=())
    def std_mean(self, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        var, mean = self.var_mean(*arguments, **options)
        return self.where_positive(self.sqrt, var), mean

    def where_positive(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """The function, and x itself where that is 0 or NaN, without gradient: so that norms and
        deviations have the gradient 0 at 0, as in PyTorch.
        """
        positive = x > 0
        return torch.where(positive, function(torch.where(positive, x, 1.0)), x.detach())

    def norm(
        self, x: Tensor, p: Any = 2, dim: Axes = None, keepdim: bool = False, dtype: Any = None
    ) -> Tensor:
        x = x if dtype is None else x.to(dtype)
        if p in (None, "fro"):
            p = 2
        if isinstance(p, str) or p <= 0:
            raise ValueError(
                f"norms of positive order are rounded, got p={p!r}; exclude the module, or compute"
                " the norm outside of it"
            )
        if p == math.inf:
            axes = range(x.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
            return x.abs().amax(tuple(axes), keepdim)
        if p == 1:
            return self._summed(x.abs(), dim, keepdim)[0]
        if p == 2:
            return self.where_positive(self.sqrt, self._summed(self.square(x), dim, keepdim)[0])
        powers = self.where_positive(lambda size: self.pow(size, p), x.abs())
        total = self._summed(powers, dim, keepdim)[0]
        return self.where_positive(lambda total: self.pow(total, 1 / p), total)

    def vector_norm(
        self, x: Tensor, ord: Any = 2, dim: Axes = None, keepdim: bool = False, *, dtype: Any = None
    ) -> Tensor:
        return self.norm(x, ord, dim, keepdim, dtype)

    def linalg_norm(
        self,
        x: Tensor,
        ord: Any = None,
        dim: Axes = None,
        keepdim: bool = False,
        *,
        dtype: Any = None,
    ) -> Tensor:
        """Of vectors in every order, of matrices in that of Frobenius."""
        if ord not in (None, "fro") and not (isinstance(dim, int) or (dim is None and x.ndim == 1)):
            raise ValueError(
                f"norms of matrices are rounded with ord=None or 'fro', got ord={ord!r}; exclude"
                " the module, or compute the norm outside of it"
            )
        return self.norm(x, ord, dim, keepdim, dtype)

    def normalize(
        self, x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None
    ) -> Tensor:
        return self.div(x, self.norm(x, p, dim, True).clamp_min(eps))

    def weight_norm(self, v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
        """g·v/‖v‖, norms over all axes but one (Salimans and Kingma 2016, arXiv 1602.07868)."""
        axes = [d for d in range(v.ndim) if d != dim % v.ndim]
        return self.mul(v, self.div(g, self.norm(v, 2, axes, True)))

    def logsumexp(self, x: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
        axes = [dim] if isinstance(dim, int) else list(dim)
        greatest = x.detach().amax(axes, True)
        total = self._summed(self.exp(self.sub(x, greatest)), axes, True)[0]
        y = self.add(self.log(total), greatest)
        return y if keepdim else y.squeeze(tuple(axes))

    def logaddexp(self, a: Tensor, b: Tensor) -> Tensor:
        """max(a, b) + log(1 + exp(-|a - b|)); of equal infinities themselves."""
        same = (a == b) & a.isinf()
        d = self.sub(torch.where(same, 0.0, a), torch.where(same, 0.0, b))
        return self.add(torch.maximum(a, b), self.softplus(-d.abs()))

    def outer(self, a: Tensor, b: Tensor) -> Tensor:
        return self.mul(a[:, None], b)

    def softplus(self, x: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
        return self.function("softplus", x, beta, threshold)

    def mish(self, x: Tensor, inplace: bool = False) -> Tensor:
        return self._of(nonlinearities.mish, x)

    def elu(self, x: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
        return self._of(nonlinearities.elu, x, alpha)

    def celu(self, x: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
        return self._of(nonlinearities.celu, x, alpha)

    def selu(self, x: Tensor, inplace: bool = False) -> Tensor:
        return self._of(nonlinearities.selu, x)

    def leaky_relu(self, x: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
        return self._of(nonlinearities.leaky_relu, x, negative_slope)

    def prelu(self, x: Tensor, weight: Tensor) -> Tensor:
        shaped = weight.reshape(-1, *(1,) * (x.ndim - 2)) if x.ndim > 1 else weight.reshape(())
        return torch.where(x > 0, x, self.mul(x, shaped))

    def hardsigmoid(self, x: Tensor, inplace: bool = False) -> Tensor:
        return self._of(nonlinearities.hard_sigmoid, x)

    def hardswish(self, x: Tensor, inplace: bool = False) -> Tensor:
        return self._of(nonlinearities.hard_silu, x)

    def softsign(self, x: Tensor) -> Tensor:
        return self._of(nonlinearities.softsign, x)

    def tanhshrink(self, x: Tensor) -> Tensor:
        return self._of(nonlinearities.tanh_shrink, x)

    def dropout(
        self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        """Kept numbers are multiplied by 1/(1 - p), which is not rounded itself."""
        return self._dropped(F.dropout, x, p, training)

    def _dropped(self, function: Any, x: Tensor, p: float, training: bool) -> Tensor:
        if not training or p == 0:
            return x
        with torch.no_grad():
            kept = function(torch.ones_like(x), p, True)
        return self.mul(x, kept)

    def dropout1d(
        self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        return self._dropped(F.dropout1d, x, p, training)

    def dropout2d(
        self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        return self._dropped(F.dropout2d, x, p, training)

    def dropout3d(
        self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        return self._dropped(F.dropout3d, x, p, training)
