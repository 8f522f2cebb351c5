"""Standardization of rows and affine maps with each elementwise operation rounded, in autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qemu_swalp.interop.torch import unviewed
from qemu_swalp.training import functional

from ..tensors.transforms import Transformable, applied, transformable
from .elementwise import ElementwiseRules, RoundedArithmetic


def standardize(
    x: Tensor, eps: float, centered: bool, rules: ElementwiseRules
) -> tuple[Tensor, Tensor, Tensor]:
    """(x - μ)/√(σ² + ε) of rows, with μ and σ², which carry no gradient; of centered=False μ is
    0.
    """
    z, mean, variance, _ = applied(_Standardize, x, eps, centered, rules)
    return z, mean, variance


def standardize_by(
    x: Tensor, mean: Tensor, variance: Tensor, eps: float, rules: ElementwiseRules
) -> Tensor:
    """(x - mean)/√(variance + ε) of rows by statistics that carry no gradient."""
    y: Tensor = applied(_StandardizeBy, x, mean, variance, eps, rules)[0]
    return y


def affine(
    z: Tensor, weight: Tensor | None, bias: Tensor | None, rules: ElementwiseRules
) -> Tensor:
    """z·weight + bias; z of shape (A, P, B), weight and bias with P elements."""
    result: Tensor = applied(_Affine, z, weight, bias, rules.within("affine"))
    return result


@transformable
class _Standardize(Transformable):
    @staticmethod
    def forward(
        x: Tensor, eps: float, centered: bool, rules: ElementwiseRules
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        z, r, mean, variance = _standardized(x, eps, centered, rules)
        mean = torch.zeros_like(variance) if mean is None else mean
        return z, mean, variance, r

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, ctx.eps, ctx.centered, ctx.rules = inputs
        z, *others = output
        ctx.save_for_backward(x, z, others[-1])
        ctx.mark_non_differentiable(*others)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, z, r = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: r has a gradient
            z, r, _, _ = _standardized(x, ctx.eps, ctx.centered, ctx.rules)
        ops = RoundedArithmetic(ctx.rules, "backward")
        return (
            functional.standardized_gradient(ops, z, r, gradients[0], z.shape[-1], ctx.centered),
            None,
            None,
            None,
        )


def _standardized(
    x: Tensor, eps: float, centered: bool, rules: ElementwiseRules
) -> tuple[Tensor, Tensor, Any, Tensor]:
    """(x - μ)·r, r, μ, σ²."""
    ops = RoundedArithmetic(rules, "forward")
    mean, d, variance = functional.moments(ops, x, x.shape[-1], centered)
    r = functional.reciprocal_root(ops, variance, eps)
    return ops.multiply(d, r), r, mean, variance


@transformable
class _StandardizeBy(Transformable):
    @staticmethod
    def forward(
        x: Tensor, mean: Tensor, variance: Tensor, eps: float, rules: ElementwiseRules
    ) -> tuple[Tensor, Tensor]:
        ops = RoundedArithmetic(rules, "forward")
        d = ops.subtract(x, mean.to(x.dtype))
        r = functional.reciprocal_root(ops, variance.to(x.dtype), eps)
        return ops.multiply(d, r), r

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.rules = inputs[-1]
        ctx.save_for_backward(output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (r,) = ctx.saved_tensors
        return (
            RoundedArithmetic(ctx.rules, "backward").multiply(gradients[0], r),
            None,
            None,
            None,
            None,
        )


@transformable
class _Affine(Transformable):
    @staticmethod
    def forward(
        z: Tensor, weight: Tensor | None, bias: Tensor | None, rules: ElementwiseRules
    ) -> Tensor:
        ops = RoundedArithmetic(rules, "forward")
        y = z if weight is None else ops.multiply(z, _column(weight, z))
        return y.clone() if bias is None else ops.add(y, _column(bias, z))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        z, weight, bias, ctx.rules = inputs
        ctx.save_for_backward(z, weight)
        ctx.shape = None if bias is None else bias.shape

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        z, weight = ctx.saved_tensors
        (g,) = gradients
        ops, dz, dw, db = RoundedArithmetic(ctx.rules, "backward"), g, None, None
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
