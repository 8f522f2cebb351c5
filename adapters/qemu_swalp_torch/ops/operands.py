"""What is done to the operands of a product before they are multiplied.

The product of operands that were multiplied by factors is divided by them; one of operands that
were both transformed is what it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qemu_swalp.arrays import namespace_of
from qemu_swalp.kernels import hadamard as hadamard_kernel
from qemu_swalp.ops.hadamard import COIN, Hadamard, signs_from, transformed

from ..tensors.custom_ops import SIGNS, Rule, apply_rule, is_traced, signed, unsigned
from .scaling import Scaling, scaled


class Turn(NamedTuple):
    """A `Hadamard` by its string, with the random bits of signs that are drawn, or the seed of
    those that are fixed.
    """

    transform: str
    signs: Rule | None = None
    seed: int = 0


class Operand(NamedTuple):
    """What is done to an operand, in this order."""

    factor: float = 1.0
    turn: Turn | None = None
    rule: Rule | None = None
    scaling: Scaling | None = None


class ProductRules(NamedTuple):
    """How a product is made: its operands, in the order of `qemu_swalp.training.OPERANDS`, and its
    sum, which None leaves to PyTorch.
    """

    first: Operand = Operand()
    second: Operand = Operand()
    sum: Rule | None = None


class Operands(NamedTuple):
    """The three products of a layer."""

    forward: ProductRules = ProductRules()
    dgrad: ProductRules = ProductRules()
    wgrad: ProductRules = ProductRules()
    from_rounded: bool = False
    """Whether the backward products take what the forward product multiplied."""


def coin(seed: int, stream: int, step: int | Tensor) -> Rule:
    """The rule that draws signs."""
    return Rule("/".join(COIN), seed, stream, step, role=SIGNS)


def is_plain(operand: Operand) -> bool:
    """Whether an operand is left as it is."""
    return operand.rule is None and operand.turn is None and operand.factor == 1


def prepared(x: Tensor, operand: Operand) -> Tensor:
    """An operand, whose last axis is summed over, as it is multiplied; without gradient."""
    if operand.factor != 1:
        x = x * operand.factor
    if operand.turn is not None:
        x = turned(x, operand.turn)
    if operand.rule is None:
        return x
    if operand.scaling is not None:
        return scaled(x, operand.rule, operand.scaling)
    return apply_rule(x, operand.rule)


def unscaled(y: Tensor, product: ProductRules) -> Tensor:
    """A product without the factors of its operands."""
    factor = product.first.factor * product.second.factor
    return y if factor == 1 else y * (1 / factor)


def turned(x: Tensor, turn: Turn) -> Tensor:
    """x transformed along its last axis, in float32 for 16-bit tensors; differentiable, but for
    what is traced.
    """
    signs = None
    if turn.signs is not None:
        half = torch.full((x.shape[-1],), 0.5, dtype=torch.float32, device=x.device)
        signs = signs_from(apply_rule(half, turn.signs))
    if is_traced():  # an operator, since lengths may be symbols
        traced: Tensor = _turn(x, turn.transform, signed(turn.seed), signs)
        return traced
    return _turned(x, turn.transform, turn.seed, signs)


def _turned(x: Tensor, transform: str, seed: int, signs: Tensor | None) -> Tensor:
    hadamard, (*lead, length) = _parsed(transform), x.shape
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    if signs is None and (constant := hadamard.constant_signs(seed)) is not None:
        signs = torch.from_numpy(np.resize(constant, length)).to(x.device)

    def reshape(part: Tensor, tail: Sequence[int]) -> Tensor:
        return part.reshape(*lead, *tail)

    def concatenate(parts: Sequence[Tensor], axis: int) -> Tensor:
        return torch.cat(list(parts), axis)

    signs = None if signs is None else signs.to(wide.dtype)
    y = hadamard_kernel(namespace_of(wide), wide, len(lead), hadamard.size, signs)
    if y is None:
        wide = wide if signs is None else wide * signs
        y = transformed(wide, hadamard.stretches(length), reshape, concatenate)
    transformed_x: Tensor = y.to(x.dtype)
    return transformed_x


@torch.library.custom_op("qemu_swalp::hadamard", mutates_args=())
def _turn(x: Tensor, transform: str, seed: int, signs: Tensor | None) -> Tensor:
    return _turned(x, transform, unsigned(seed), signs).clone(memory_format=torch.contiguous_format)


@_turn.register_fake
def _(x: Tensor, transform: str, seed: int, signs: Tensor | None) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@lru_cache(maxsize=1024)
def _parsed(transform: str) -> Hadamard:
    return Hadamard.parse(transform)
