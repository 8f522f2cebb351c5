"""Softmax, normalization and nonlinearities by rounded elementary steps, in autograd.

`qemu_swalp.training.functional` has the steps of each, forward and backward. Double backward
differentiates the exact steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from qemu_swalp.training import functional as steps

from ..tensors.arrays import unviewed
from .elementwise import StepRules, Steps

FORMULAS: dict[str, tuple[Callable[..., Any], Callable[..., Any], bool]] = {
    "softmax": (steps.softmax, steps.softmax_gradient, True),
    "log_softmax": (steps.log_softmax, steps.log_softmax_gradient, True),
    "sigmoid": (steps.sigmoid, steps.sigmoid_gradient, True),
    "tanh": (lambda ops, x: ops.tanh(x), steps.tanh_gradient, True),
    "silu": (steps.silu, steps.silu_gradient, False),
    "gelu": (steps.gelu, steps.gelu_gradient, False),
    "tanh_gelu": (steps.tanh_gelu, steps.tanh_gelu_gradient, False),
}
"""Function, gradient, and whether that is of the output, else of the input."""


class Stepwise:
    """The functions of `torch.nn.functional` by rounded steps, at one call of a module; arguments
    and shapes are theirs.
    """

    def __init__(self, rules: StepRules) -> None:
        self.rules, self.calls = rules, 0

    def _next(self) -> StepRules:
        rules = self.rules.within(str(self.calls)) if self.calls else self.rules
        self.calls += 1
        return rules

    def _formula(self, name: str, x: Tensor) -> Tensor:
        result: Tensor = _Formula.apply(x, name, self._next())  # type: ignore[no-untyped-call]
        return result

    def softmax(
        self,
        x: Tensor,
        dim: int | None = None,
        _stacklevel: int = 3,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        return self._over(x, dim, dtype, "softmax")

    def log_softmax(
        self,
        x: Tensor,
        dim: int | None = None,
        _stacklevel: int = 3,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        return self._over(x, dim, dtype, "log_softmax")

    def _over(self, x: Tensor, dim: int | None, dtype: torch.dtype | None, name: str) -> Tensor:
        if dim is None:  # as PyTorch chooses one
            dim = 0 if x.ndim in (0, 1, 3) else 1
        x = _autocast(x) if dtype is None else x.to(dtype)
        return (
            self._formula(name, x.movedim(dim, -1)).movedim(-1, dim)
            if x.ndim
            else self._formula(name, x[None])[0]
        )

    def safe_softmax(self, scores: Tensor) -> Tensor:
        """Over the last axis; rows of -infinity alone give zeros."""
        hidden = (scores == -torch.inf).all(-1, keepdim=True)
        return self._formula("softmax", scores.masked_fill(hidden, 0.0)).masked_fill(hidden, 0.0)

    def sigmoid(self, x: Tensor) -> Tensor:
        return self._formula("sigmoid", x)

    def tanh(self, x: Tensor) -> Tensor:
        return self._formula("tanh", x)

    def silu(self, x: Tensor, inplace: bool = False) -> Tensor:
        return self._formula("silu", x)

    def gelu(self, x: Tensor, approximate: str = "none") -> Tensor:
        return self._formula("tanh_gelu" if approximate == "tanh" else "gelu", x)

    def layer_norm(
        self,
        x: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        return self._normalized(x, len(normalized_shape), weight, bias, eps, centered=True)

    def rms_norm(
        self,
        x: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        eps: float | None = None,
    ) -> Tensor:
        x = _autocast(x)
        eps = torch.finfo(x.dtype).eps if eps is None else eps
        return self._normalized(x, len(normalized_shape), weight, None, eps, centered=False)

    def _normalized(
        self,
        x: Tensor,
        axes: int,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        centered: bool,
    ) -> Tensor:
        x, rules = _autocast(x), self._next()
        z = standardize(
            x.flatten(-axes).flatten(0, -2) if x.ndim > axes else x.reshape(1, -1),
            eps,
            centered,
            rules,
        )[0]
        return _affine(z[..., None], weight, bias, rules)[..., 0].reshape(x.shape)

    def group_norm(
        self,
        x: Tensor,
        num_groups: int,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        x, rules = _autocast(x), self._next()
        z = standardize(x.reshape(x.shape[0], num_groups, -1), eps, True, rules)[0]
        return _affine(z.reshape(*x.shape[:2], -1), weight, bias, rules).reshape(x.shape)

    def batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """Running statistics are in full precision; they take in the rounded ones of the batch."""
        rules = self._next()
        rows = x.transpose(0, 1).flatten(1)
        if training and rows.shape[1] == 1:
            raise ValueError(
                f"training needs more than 1 value per channel, got input of shape {tuple(x.shape)}"
            )
        if training:
            z, mean, variance = standardize(rows, eps, True, rules)
            count = rows.shape[1]
            with torch.no_grad():
                if running_mean is not None:
                    running_mean.lerp_(mean[:, 0].to(running_mean.dtype), momentum)
                if running_var is not None:
                    running_var.lerp_(
                        variance[:, 0].to(running_var.dtype) * (count / (count - 1)), momentum
                    )
        elif running_mean is None or running_var is None:
            raise ValueError("batch normalization in evaluation needs running_mean and running_var")
        else:
            z = _Shifted.apply(rows, running_mean[:, None], running_var[:, None], eps, rules)  # type: ignore[no-untyped-call]
        y = _affine(z[None], weight, bias, rules)[0]
        return y.reshape(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1)


def standardize(
    x: Tensor, eps: float, centered: bool, rules: StepRules
) -> tuple[Tensor, Tensor, Tensor]:
    """(x - μ)/√(σ² + ε) of rows, with μ and σ², which carry no gradient; of centered=False μ is
    0.
    """
    result: tuple[Tensor, Tensor, Tensor] = _Standardize.apply(x, eps, centered, rules)  # type: ignore[no-untyped-call]
    return result


def _affine(z: Tensor, weight: Tensor | None, bias: Tensor | None, rules: StepRules) -> Tensor:
    """z·weight + bias; z of shape (A, P, B), weight and bias with P elements."""
    result: Tensor = _Affine.apply(z, weight, bias, rules.within("affine"))  # type: ignore[no-untyped-call]
    return result


def _autocast(x: Tensor) -> Tensor:
    """In float32 under autocast, as PyTorch has these functions."""
    return x.float() if torch.is_autocast_enabled(x.device.type) else x


class _Formula(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str, rules: StepRules) -> Tensor:
        function, _, of_output = FORMULAS[name]
        y: Tensor = function(Steps(rules, "forward"), x)
        ctx.save_for_backward(y if of_output else x)
        ctx.name, ctx.rules = name, rules
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (saved,), (g,) = ctx.saved_tensors, gradients
        return FORMULAS[ctx.name][1](Steps(ctx.rules, "backward"), saved, g), None, None


class _Standardize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, eps: float, centered: bool, rules: StepRules
    ) -> tuple[Tensor, Tensor, Tensor]:
        z, r, mean, variance = _standardized(x, eps, centered, rules)
        mean = torch.zeros_like(variance) if mean is None else mean
        ctx.save_for_backward(x, z, r)
        ctx.mark_non_differentiable(mean, variance)
        ctx.eps, ctx.centered, ctx.rules = eps, centered, rules
        return z, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, z, r = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: r has a gradient
            z, r, _, _ = _standardized(x, ctx.eps, ctx.centered, ctx.rules)
        ops = Steps(ctx.rules, "backward")
        return (
            steps.standardized_gradient(ops, z, r, gradients[0], z.shape[-1], ctx.centered),
            None,
            None,
            None,
        )


def _standardized(
    x: Tensor, eps: float, centered: bool, rules: StepRules
) -> tuple[Tensor, Tensor, Any, Tensor]:
    """(x - μ)·r, r, μ, σ²."""
    ops = Steps(rules, "forward")
    mean, d, variance = steps.moments(ops, x, x.shape[-1], centered)
    r = steps.reciprocal_root(ops, variance, eps)
    return ops.multiply(d, r), r, mean, variance


class _Shifted(torch.autograd.Function):
    """(x - mean)·r of rows by given statistics."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor, variance: Tensor, eps: float, rules: StepRules
    ) -> Tensor:
        ops = Steps(rules, "forward")
        d = ops.subtract(x, mean.to(x.dtype))
        r = steps.reciprocal_root(ops, variance.to(x.dtype), eps)
        ctx.save_for_backward(r)
        ctx.rules = rules
        y: Tensor = ops.multiply(d, r)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (r,) = ctx.saved_tensors
        return Steps(ctx.rules, "backward").multiply(gradients[0], r), None, None, None, None


class _Affine(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z: Tensor, weight: Tensor | None, bias: Tensor | None, rules: StepRules
    ) -> Tensor:
        ops = Steps(rules, "forward")
        ctx.save_for_backward(z, weight)
        ctx.rules, ctx.shape = rules, None if bias is None else bias.shape
        y = z if weight is None else ops.multiply(z, _column(weight, z))
        return y.clone() if bias is None else ops.add(y, _column(bias, z))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        z, weight = ctx.saved_tensors
        (g,) = gradients
        ops, dz, dw, db = Steps(ctx.rules, "backward"), g, None, None
        if weight is not None:
            dz = ops.multiply(g, _column(weight, z))
            dw = ops.sum(_by_parameter(ops.multiply(g, z))).reshape(weight.shape).to(weight.dtype)
        if ctx.shape is not None:
            db = ops.sum(_by_parameter(g)).reshape(ctx.shape)
        return dz, dw, db, None


def _column(parameter: Tensor, z: Tensor) -> Tensor:
    return unviewed(parameter).to(z.dtype).reshape(-1, 1)


def _by_parameter(x: Tensor) -> Tensor:
    """(A, P, B) as (P, A·B)."""
    return x.movedim(1, 0).flatten(1)
