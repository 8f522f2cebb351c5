"""Convolutions with operands rounded, each by itself: the forward product and the two of the
backward.

Blocks lie along channels. As their quantizers see them, P the number of pixels, k that of kernel
positions, O output and C input channels, G groups: input (P·G, C/G) and weight (k, O, C/G) forward,
error (P·G, O/G) and weight (k, C, O/G) in dgrad, error (O, P) and input (C, P) in wgrad, as in
`qemu_swalp_torch.ops.matmul.convolution`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from keras import ops

from .._compat import backend_function
from ..calls.differentiable import differentiable, pull_back
from ..calls.operands import Operand, Operands, State, is_plain, prepared, unscaled
from ..calls.pausing import paused


class Convolution(NamedTuple):
    """Which function of the backend it is, how it is called, and how its operands are rounded.
    Hashable.
    """

    name: str
    options: tuple[tuple[str, Any], ...]
    groups: int
    operands: Operands

    @property
    def channels_first(self) -> bool:
        return dict(self.options)["data_format"] == "channels_first"

    def __call__(self, x: Any, kernel: Any) -> Any:
        return backend_function(self.name)(x, kernel, **dict(self.options))


def convolve(convolution: Convolution, state: State, x: Any, kernel: Any) -> Any:
    """The convolution of x by the kernel, which Keras has as (*k, C/G, O), transposed ones
    as (*k, O, C), depthwise ones as (*k, C, O/C).
    """
    return differentiable(_forward, _backward)(convolution, tuple(state), x, kernel)


def _forward(convolution: Convolution, state: Any, x: Any, kernel: Any) -> Any:
    rules = convolution.operands.forward
    with paused():
        a = _over_channels(convolution, x, rules.first, state)
        y = convolution(a, _kernel(convolution, kernel, rules.second, state, True))
        return unscaled(y, rules, state)


def _backward(
    convolution: Convolution,
    state: Any,
    tensors: Sequence[Any],
    error: Any,
    needed: Sequence[bool],
) -> tuple[Any, Any]:
    x, kernel = tensors
    dx = dw = None
    # A convolution is linear in either operand, so its gradient is the same everywhere: at zero.
    with paused():
        if needed[0]:
            rules = convolution.operands.dgrad
            e = _over_channels(convolution, error, rules.first, state)
            w = _kernel(convolution, kernel, rules.second, state, False)
            dx = pull_back(lambda x: convolution(x, w), ops.zeros_like(x), e)
            dx = unscaled(dx, rules, state)
        if needed[1]:
            rules = convolution.operands.wgrad
            e = _over_pixels(convolution, error, rules.first, state)
            a = _over_pixels(convolution, x, rules.second, state)
            dw = pull_back(lambda kernel: convolution(a, kernel), ops.zeros_like(kernel), e)
            dw = unscaled(dw, rules, state)
    return dx, dw


def _channels_last(convolution: Convolution, x: Any) -> Any:
    return ops.moveaxis(x, 1, -1) if convolution.channels_first else x


def _channels_back(convolution: Convolution, x: Any) -> Any:
    return ops.moveaxis(x, -1, 1) if convolution.channels_first else x


def _over_channels(convolution: Convolution, x: Any, operand: Operand, state: Any) -> Any:
    """x rounded as (B·S·G, C/G)."""
    if is_plain(operand):
        return x
    last = _channels_last(convolution, x)
    rows = ops.reshape(last, (-1, last.shape[-1] // convolution.groups))
    return _channels_back(convolution, ops.reshape(prepared(rows, operand, state), ops.shape(last)))


def _over_pixels(convolution: Convolution, x: Any, operand: Operand, state: Any) -> Any:
    """x rounded as (C, B·S)."""
    if is_plain(operand):
        return x
    last = _channels_last(convolution, x)
    columns = ops.transpose(ops.reshape(last, (-1, last.shape[-1])))
    return _channels_back(
        convolution,
        ops.reshape(ops.transpose(prepared(columns, operand, state)), ops.shape(last)),
    )


def _kernel(
    convolution: Convolution, kernel: Any, operand: Operand, state: Any, forward: bool
) -> Any:
    """The kernel rounded as (k, O, C/G) forward, else as (k, C, O/G)."""
    if is_plain(operand):
        return kernel
    shape, groups = tuple(kernel.shape), convolution.groups
    k = math.prod(shape[:-2])
    if convolution.name == "nn.conv_transpose":
        shape_of_four, order = (k, 1, *shape[-2:]), (0, 1, 2, 3) if forward else (0, 1, 3, 2)
    else:
        per_group = 1 if convolution.name == "nn.depthwise_conv" else shape[-2]
        shape_of_four = (k, per_group, groups, math.prod(shape[-2:]) // (per_group * groups))
        order = (0, 2, 3, 1) if forward else (0, 2, 1, 3)
    arranged = ops.transpose(ops.reshape(kernel, shape_of_four), order)
    turned = tuple(arranged.shape)
    matrix = ops.reshape(arranged, (turned[0], turned[1] * turned[2], turned[3]))
    back = sorted(range(4), key=order.__getitem__)
    values = ops.reshape(prepared(matrix, operand, state), turned)
    return ops.reshape(ops.transpose(values, back), shape)
