"""Products accumulated in low precision: `qemu_swalp.matmul` on tensors and in graphs.

Convolutions are such products.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

import qemu_swalp
from qemu_swalp import Accumulation, RandomBits

from ..tensors.custom_ops import (
    Rule,
    as_loss_scaling_needs,
    is_stochastic,
    is_traced,
    known_step,
    signed,
    step_tensor,
    unsigned,
)

ENOUGH = 16
"""Outputs of a group that fill the kernels' vectors."""


class Geometry(NamedTuple):
    """Arguments of `torch.convolution`; a number for each spatial axis."""

    stride: Any
    padding: Any
    dilation: Any
    transposed: bool
    output_padding: Any
    groups: int


def times(a: Tensor, b: Tensor, rule: Rule) -> Tensor:
    """a·b, batched and broadcast; without gradient."""
    if is_traced():
        traced: Tensor = _multiply(
            a,
            b,
            rule.quantizer,
            signed(rule.seed),
            signed(rule.stream),
            step_tensor(rule),
            rule.role,
        )
        return traced
    accumulation = Accumulation.parse(rule.quantizer)
    random = RandomBits(rule.seed, rule.stream, rule.step) if accumulation.stochastic else None
    a, b = a.detach(), b.detach()
    product: Tensor = qemu_swalp.matmul(a, b, accumulation, random=random)
    return as_loss_scaling_needs(product, rule.role, lambda: torch.matmul(a, b))


@torch.library.custom_op("qemu_swalp::multiply", mutates_args=())
def _multiply(
    a: Tensor, b: Tensor, accumulation: str, seed: int, stream: int, step: Tensor, role: str
) -> Tensor:
    rule = Rule(accumulation, unsigned(seed), unsigned(stream), known_step(step), role=role)
    return times(a, b, rule).contiguous()


@_multiply.register_fake
def _(
    a: Tensor, b: Tensor, accumulation: str, seed: int, stream: int, step: Tensor, role: str
) -> Tensor:
    return torch.matmul(a, b)


def convolve(
    x: Tensor, weight: Tensor, g: Geometry, rule: Rule, size: torch.Size | None = None
) -> Tensor:
    """The sums of a convolution: over channels of a group, then kernel positions.

    x of shape (B, C, *S), weight (O, C/G, *k), size: of the output, where it does not follow. The
    product is (G, B·P, C/G·k) · (G, C/G·k, O/G), P the output pixels; without random bits, which
    would go to other elements, it is its transpose, whose operands lie as in an image.
    """
    if not is_stochastic(rule.quantizer):
        b, pixels = _across(x, weight.shape[2:], g, size)
        y = times(_parted(weight, 0, g.groups).flatten(2), b, rule)  # (G, O/G, B·P)
        y = y.reshape(weight.shape[0], x.shape[0], *pixels).transpose(0, 1)
        return y.contiguous()
    a, pixels = _columns(x, weight.shape[2:], g, size)
    y = times(a, _parted(weight, 0, g.groups).flatten(2).mT, rule)  # (G, B·P, O/G)
    return y.movedim(0, 1).reshape(x.shape[0], *pixels, weight.shape[0]).movedim(-1, 1)


def gradient_of_input(
    error: Tensor, weight: Tensor, size: torch.Size, g: Geometry, rule: Rule
) -> Tensor:
    """The sums of the gradient of a convolution's input, whose spatial size is given: a convolution
    of the errors, with zeros between them where there are strides, by the turned kernel.

    error of shape (B, O, *P), weight (O, C/G, *k). The product is (G, B·S, O/G·k) · (G, O/G·k,
    C/G).
    """
    spread, margins = error, []
    for axis, (kernel, stride, padding, dilation, length) in enumerate(
        zip(weight.shape[2:], g.stride, g.padding, g.dilation, size, strict=True), start=2
    ):
        if stride > 1:
            zeros = spread.new_zeros(
                (*spread.shape[: axis + 1], stride - 1, *spread.shape[axis + 1 :])
            )
            spread = torch.cat([spread.unsqueeze(axis + 1), zeros], axis + 1).flatten(
                axis, axis + 1
            )
            spread = spread.narrow(axis, 0, spread.shape[axis] - (stride - 1))
        reach = dilation * (kernel - 1)
        margins.append((reach - padding, length + padding - spread.shape[axis]))
    spread = pad(spread, [margin for pair in reversed(margins) for margin in pair])
    turned = (
        _parted(weight, 0, g.groups)
        .transpose(1, 2)
        .flatten(0, 1)
        .flip(tuple(range(2, weight.ndim)))
    )
    ones, none = (1,) * len(size), (0,) * len(size)
    return convolve(spread, turned, Geometry(ones, none, g.dilation, False, none, g.groups), rule)


def gradient_of_weight(
    error: Tensor, x: Tensor, kernel: torch.Size, g: Geometry, rule: Rule
) -> Tensor:
    """The sums of the gradient of a convolution's weight: over the batch, then output pixels.

    error of shape (B, O, *P), x (B, C, *S). The product is (G, O/G, B·P) · (G, B·P, C/G·k), or its
    transpose.
    """
    shape = (error.shape[1], x.shape[1] // g.groups, *kernel)
    if error.shape[1] // g.groups >= ENOUGH and not is_stochastic(rule.quantizer):
        e = _parted(error.transpose(0, 1), 0, g.groups).flatten(2).mT  # (G, B·P, O/G)
        y = times(_across(x, kernel, g, error.shape[2:])[0], e, rule)  # (G, C/G·k, O/G)
        return y.mT.reshape(shape)
    return times(*pixels_and_columns(error, x, kernel, g), rule).reshape(shape)


def pixels_and_columns(
    error: Tensor, x: Tensor, kernel: torch.Size, g: Geometry
) -> tuple[Tensor, Tensor]:
    """The operands of the gradient of a weight as matrices: (G, O/G, B·P) and (G, B·P, C/G·k)."""
    columns, _ = _columns(x, kernel, g, error.shape[2:])
    return _parted(error.transpose(0, 1), 0, g.groups).flatten(2), columns


def _columns(
    x: Tensor, kernel: torch.Size, g: Geometry, size: torch.Size | None
) -> tuple[Tensor, torch.Size]:
    """What the kernel meets at each output pixel, (G, B·P, C/G·k), and the pixels' lengths: `size`,
    where given.
    """
    windows = _windows(x, kernel, g, size)
    pixels = windows.shape[2 : x.ndim]
    parted = _parted(windows, 1, g.groups).movedim((1, 2), (0, x.ndim))  # (G, B, *P, C/G, *k)
    return parted.flatten(1, x.ndim - 1).flatten(2), pixels


def _across(
    x: Tensor, kernel: torch.Size, g: Geometry, size: torch.Size | None
) -> tuple[Tensor, torch.Size]:
    """The same as (G, C/G·k, B·P): rows of pixels lie in memory as those of the image, so that the
    copy takes a fraction of the time.
    """
    windows = _windows(x, kernel, g, size)
    pixels, axes = windows.shape[2 : x.ndim], len(kernel)
    parted = _parted(windows, 1, g.groups)  # (B, G, C/G, *P, *k)
    order = (1, 2, *range(3 + axes, 3 + 2 * axes), 0, *range(3, 3 + axes))
    return parted.permute(order).flatten(2 + axes).flatten(1, 1 + axes), pixels


def _windows(x: Tensor, kernel: torch.Size, g: Geometry, size: torch.Size | None) -> Tensor:
    """The view (B, C, *P, *k) of what the kernel meets."""
    windows = pad(x, [n for length in reversed(g.padding) for n in (length, length)])
    for axis, (length, stride, dilation) in enumerate(
        zip(kernel, g.stride, g.dilation, strict=True), start=2
    ):
        windows = windows.unfold(axis, dilation * (length - 1) + 1, stride)[..., ::dilation]
        if size is not None:
            windows = windows.narrow(axis, 0, size[axis - 2])
    return windows


def _parted(x: Tensor, axis: int, groups: int) -> Tensor:
    """An axis as two: the groups, and what each has of it."""
    return torch.unflatten(x, axis, (groups, -1))
