"""Elementwise operations and sums in autograd, each rounded, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from qemu_swalp.training.derivatives import RESULT, gradient, is_saved

from ..tensors.transforms import Transformable, applied, transformable
from .elementwise import ElementwiseRules, RoundedArithmetic, reduced
from .function_table import FUNCTIONS

Number = Tensor | float


def apply(name: str, rules: ElementwiseRules, *operands: Number) -> Tensor:
    """An operation of `RoundedArithmetic`, or one of `FUNCTIONS` of an operand and constants.

    Tensors are promoted and broadcast as in PyTorch; its gradients are rounded too.
    """
    tensors = [x for x in operands if isinstance(x, Tensor)]
    if name not in FUNCTIONS or len(tensors) > 1:
        dtype = _promoted(tensors)
        operands = tuple(
            x.to(dtype) if isinstance(x, Tensor) and x.dtype != dtype else x for x in operands
        )
    if len(tensors) == 2 and operands[0] is operands[1]:  # torch.compile refuses the same twice
        operands = (operands[0], tensors[1].view_as(tensors[1]))
    a, b, c = (*operands, None, None)[:3]
    result: Tensor = applied(_Operation, a, b, c, name, rules)
    return result


def _promoted(tensors: Sequence[Tensor]) -> torch.dtype:
    """The floating dtype of a result; tensors with axes outweigh those without, as in PyTorch."""
    floating = [x for x in tensors if x.is_floating_point()]
    dtypes = [x.dtype for x in floating if x.ndim] or [x.dtype for x in floating]
    dtype = dtypes[0]
    for other in dtypes[1:]:
        dtype = torch.promote_types(dtype, other)
    return dtype


@transformable
class _Operation(Transformable):
    @staticmethod
    def forward(
        a: Number, b: Number | None, c: Number | None, name: str, rules: ElementwiseRules
    ) -> Tensor:
        operands = [x for x in (a, b, c) if x is not None]
        return _computed(RoundedArithmetic(rules, "forward"), name, operands)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        (a, b, c, name, rules), y = inputs, output
        operands = [x for x in (a, b, c) if x is not None]
        needed = ctx.needs_input_grad[: len(operands)]
        saved = [x if is_saved(name, i, needed) else None for i, x in enumerate(operands)]
        ctx.save_for_backward(
            y if is_saved(name, RESULT, needed) else None,
            *[x if isinstance(x, Tensor) else None for x in saved],
        )
        ctx.constants = [None if isinstance(x, Tensor) else x for x in operands]
        ctx.shapes = [x.shape if isinstance(x, Tensor) else None for x in operands]
        ctx.name, ctx.rules = name, rules

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        y, *tensors = ctx.saved_tensors
        operands = [
            constant if x is None else x for x, constant in zip(tensors, ctx.constants, strict=True)
        ]
        ops = RoundedArithmetic(ctx.rules, "backward")
        found: list[Tensor | None] = [None] * 5
        for index, shape in enumerate(ctx.shapes):
            if ctx.needs_input_grad[index]:
                whole = gradient(ops, ctx.name, index, gradients[0], y, operands)
                found[index] = (
                    whole.expand(shape) if ctx.name == "sum" else reduced(ops, whole, shape)
                )
        return tuple(found)


def _computed(ops: RoundedArithmetic, name: str, operands: Sequence[Number]) -> Tensor:
    if name in FUNCTIONS:
        return ops.function(name, *operands)  # type: ignore[arg-type]
    result: Tensor = getattr(ops, name)(*operands)
    return result


class Operations:
    """What `nonlinearities` compute with."""

    def __init__(self, apply: Callable[..., Tensor]) -> None:
        self.function = apply

    def add(self, a: Number, b: Number) -> Tensor:
        return self.function("add", a, b)

    def subtract(self, a: Number, b: Number) -> Tensor:
        return self.function("subtract", a, b)

    def multiply(self, a: Number, b: Number) -> Tensor:
        return self.function("multiply", a, b)

    def divide(self, a: Number, b: Number) -> Tensor:
        return self.function("divide", a, b)

    def tanh(self, x: Number) -> Tensor:
        return self.function("tanh", x)

    where = staticmethod(torch.where)
    clip = staticmethod(torch.clamp)
    absolute = staticmethod(torch.abs)
