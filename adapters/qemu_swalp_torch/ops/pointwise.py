"""Elementwise operations and sums in autograd, each rounded, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from qemu_swalp.training import functional

from ..tensors.transforms import Transformable, applied, transformable
from .elementwise import ElementwiseRules, RoundedArithmetic
from .function_table import FUNCTIONS, slope

Number = Tensor | float


def apply(name: str, rules: ElementwiseRules, *operands: Number) -> Tensor:
    """An operation of `RoundedArithmetic`, or one of `FUNCTIONS` of an operand and constants.

    Tensors are promoted and broadcast as in PyTorch; its gradients are rounded too.
    """
    tensors = [x for x in operands if isinstance(x, Tensor)]
    if name not in FUNCTIONS:
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
        saved = [x if _is_saved(name, i, needed) else None for i, x in enumerate(operands)]
        ctx.save_for_backward(
            y if _is_saved(name, RESULT, needed) else None,
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
                whole = _gradient(ops, ctx.name, index, gradients[0], y, operands)
                found[index] = (
                    whole.expand(shape) if ctx.name == "sum" else _reduced(ops, whole, shape)
                )
        return tuple(found)


RESULT = -1


def _is_saved(name: str, index: int, needed: Sequence[bool]) -> bool:
    """Whether a gradient reads the operand of that index, or the result. What none reads may be
    changed in place, as with PyTorch's operations.
    """
    if name in ("add", "subtract", "sum"):
        return False
    if name == "multiply":
        return index != RESULT and needed[1 - index]
    if name == "divide":
        return index == 1 or (index == RESULT and needed[1])
    if name in ("sqrt", "exp", "tanh"):
        return index == RESULT
    return index != RESULT


def _computed(ops: RoundedArithmetic, name: str, operands: Sequence[Number]) -> Tensor:
    if name in FUNCTIONS:
        return ops.function(name, *operands)  # type: ignore[arg-type]
    result: Tensor = getattr(ops, name)(*operands)
    return result


def _gradient(
    ops: RoundedArithmetic,
    name: str,
    index: int,
    g: Tensor,
    y: Tensor,
    operands: Sequence[Any],
) -> Tensor:
    """By the operand of that index, of the result's shape."""
    if name in FUNCTIONS:
        return ops.multiply(g, ops.function(slope(name), *operands))
    if name == "subtract" and index == 1:
        return -g
    if name == "divide" and index == 1:
        return -ops.multiply(ops.divide(g, operands[1]), y)
    return GRADIENTS[name](ops, g, y, operands[1 - index] if len(operands) == 2 else operands[0])


GRADIENTS: dict[str, Callable[[RoundedArithmetic, Tensor, Tensor, Any], Tensor]] = {
    "add": lambda ops, g, y, other: g,
    "subtract": lambda ops, g, y, other: g,
    "multiply": lambda ops, g, y, other: ops.multiply(g, other),
    "divide": lambda ops, g, y, other: ops.divide(g, other),
    "sqrt": lambda ops, g, y, x: ops.divide(ops.multiply(g, 0.5), y),
    "exp": lambda ops, g, y, x: ops.multiply(g, y),
    "log": lambda ops, g, y, x: ops.divide(g, x),
    "tanh": lambda ops, g, y, x: functional.tanh_gradient(ops, y, g),
    "erf": lambda ops, g, y, x: ops.multiply(
        g, ops.multiply(ops.exp(-ops.multiply(x, x)), 2 / math.sqrt(math.pi))
    ),
    "sum": lambda ops, g, y, x: g,
}
"""Gradients by (arithmetic, gradient of the result, result, the other operand or the only one)."""


def _reduced(ops: RoundedArithmetic, g: Tensor, shape: torch.Size) -> Tensor:
    """A gradient summed over the axes that were broadcast."""
    if g.shape == shape:
        return g
    ahead = g.ndim - len(shape)
    summed = [d for d in range(g.ndim) if d < ahead or (shape[d - ahead] == 1 and g.shape[d] != 1)]
    if not summed:
        return g.reshape(shape)
    kept = [d for d in range(g.ndim) if d not in summed]
    rows = g.permute(*kept, *summed).reshape([*[g.shape[d] for d in kept], -1])
    return ops.sum(rows)[..., 0].reshape(shape)
