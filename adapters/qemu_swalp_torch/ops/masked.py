"""Operands that the forward and the backward products share, as the forward rounds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qemu_swalp.ops import clipping

from ..tensors.custom_ops import is_traced, parsed
from ..tensors.transforms import Transformable, applied, needs_function, transformable
from .operands import Operand, Turn, prepared, turned

Prepare = Callable[[Tensor], Tensor]


def shared(x: Tensor, operand: Operand) -> Tensor:
    """An operand, whose last axis is summed over, as it is multiplied, less its factor.

    Its gradient is zero where the rounding clipped, and transformed back.
    """
    if not needs_function(x):
        return prepared(x, operand) / operand.factor
    result: Tensor = applied(_Shared, x, operand)
    return result


@transformable
class _Shared(Transformable):
    @staticmethod
    def forward(x: Tensor, operand: Operand) -> Tensor:
        return prepared(x, operand) / operand.factor

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, operand = inputs
        ctx.operand = operand
        mask = None
        if operand.rule is not None:
            before = prepared(x, operand._replace(rule=None, scaling=None))
            mask = clipped(before.detach(), operand.rule.quantizer)
        ctx.save_for_backward(mask)

    @staticmethod
    def backward(ctx: Any, *errors: Any) -> Any:
        (error,), (mask,) = errors, ctx.saved_tensors
        if mask is not None:
            error = error.masked_fill(mask, 0)
        turn = ctx.operand.turn
        return (error if turn is None else turned_back(error, turn)), None


def turned_back(x: Tensor, turn: Turn) -> Tensor:
    """The inverse of `turned`: the transform without signs, which is its own, and then the signs,
    which it gives of a row of ones that it transformed before.
    """
    plain = Turn(turn.transform.partition(",")[0].rstrip(">") + ">")
    back = turned(x, plain)
    if plain.transform == turn.transform:
        return back
    signs = turned(turned(torch.ones_like(x[..., :1, :]), turn), plain)
    return back * signs.sign()


def clipped(x: Tensor, quantizer: str) -> Tensor:
    """Mask of the numbers beyond the ends of a quantizer's format, under the scale of their
    block.
    """
    if is_traced():
        traced: Tensor = _clipped_in_graphs(x, quantizer)
        return traced
    return _clipped(x, quantizer)


def _clipped(x: Tensor, quantizer: str) -> Tensor:
    mask: Tensor = clipping.clipped(x, parsed(quantizer).format)
    return mask


@torch.library.custom_op("qemu_swalp::clipped", mutates_args=())
def _clipped_in_graphs(x: Tensor, quantizer: str) -> Tensor:
    return _clipped(x, quantizer)


@_clipped_in_graphs.register_fake
def _(x: Tensor, quantizer: str) -> Tensor:
    return torch.empty_like(x, dtype=torch.bool, memory_format=torch.contiguous_format)
