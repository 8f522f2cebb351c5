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
from ..calls.delayed import next_states
from ..calls.differentiable import differentiable, once, pull_back
from ..calls.operands import (
    Operand,
    Operands,
    Prepare,
    ProductRules,
    State,
    preparing,
    unscaled,
)
from ..calls.pausing import paused
from ..layers.straight_through import Rule
from . import patches
from .shared import rounded_once


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

    @property
    def is_transposed(self) -> bool:
        return self.name == "nn.conv_transpose"

    def __call__(self, x: Any, kernel: Any) -> Any:
        return backend_function(self.name)(x, kernel, **dict(self.options))


def convolve(convolution: Convolution, state: State, x: Any, kernel: Any) -> Any:
    """The convolution of x by the kernel, which Keras has as (*k, C/G, O), transposed ones
    as (*k, O, C), depthwise ones as (*k, C, O/C).
    """
    step, enabled, scales = state
    if convolution.operands.from_rounded:
        with paused():
            first, second, operands = rounded_once(convolution.operands, state)
            x = _over_channels(convolution, x, first)
            kernel = _kernel(convolution, kernel, second, True)
            convolution = Convolution(*convolution[:3], operands)
    backward = _summed_backward if convolution.operands.sums_backward else _backward
    function = differentiable(_forward, backward)
    return function(convolution, (step, enabled), x, kernel, *scales)


def _forward(convolution: Convolution, state: Any, x: Any, kernel: Any, *scales: Any) -> Any:
    rules, state = convolution.operands.forward, State(state[0], state[1], scales)
    with paused():
        a = _over_channels(convolution, x, preparing(rules.first, state))
        w = _kernel(convolution, kernel, preparing(rules.second, state), True)
        return unscaled(_product(convolution, a, w, rules.sum, state), rules, state)


def _backward(
    convolution: Convolution,
    state: Any,
    tensors: Sequence[Any],
    error: Any,
    needed: Sequence[bool],
) -> tuple[Any, ...]:
    x, kernel, *scales = tensors
    state = State(state[0], state[1], tuple(scales))
    dx = dw = None
    with paused():
        if needed[0]:
            rules = convolution.operands.dgrad
            e = _over_channels(convolution, error, preparing(rules.first, state))
            w = _kernel(convolution, kernel, preparing(rules.second, state), False)
            dx = unscaled(_dgrad(convolution, x, w, e, rules.sum, state), rules, state)
        if needed[1]:
            rules = convolution.operands.wgrad
            e, a = error, x
            if rules.first.turn is None:  # else what a kernel position meets is transformed
                e = _over_pixels(convolution, error, preparing(rules.first, state))
                a = _over_pixels(convolution, x, preparing(rules.second, state))
            dw = unscaled(_wgrad(convolution, a, kernel, e, rules, state), rules, state)
        seen = _seen(convolution, state, (x, kernel, error), needed[0])
        return dx, dw, *next_states(state, seen)


_summed_backward = once(_backward)


def _seen(convolution: Convolution, state: State, tensors: Any, has_dgrad: bool) -> Any:
    """The operands and how they are seen, for `next_states`."""
    x, kernel, error = tensors
    rules, over = convolution.operands, _over_channels if has_dgrad else _over_pixels

    def seen(operand: Operand) -> Prepare | None:
        return preparing(operand, state)

    return (
        (rules.forward.first, lambda operand: _over_channels(convolution, x, seen(operand))),
        (rules.forward.second, lambda operand: _kernel(convolution, kernel, seen(operand), True)),
        (
            rules.dgrad.first if has_dgrad else rules.wgrad.first,
            lambda operand: over(convolution, error, seen(operand)),
        ),
    )


def _product(convolution: Convolution, x: Any, kernel: Any, rule: Rule | None, state: Any) -> Any:
    if rule is None:
        return convolution(x, kernel)
    image, weight, g, lengths = _as_matrices(convolution, x, kernel)
    if convolution.is_transposed:
        y = patches.gradient_of_input(image, weight, lengths, g, rule, state)
    else:
        y = patches.convolve(image, weight, g, rule, state)
    return _of_images(convolution, y)


def _dgrad(
    convolution: Convolution, x: Any, kernel: Any, error: Any, rule: Rule | None, state: Any
) -> Any:
    """By a rule, or that of the backend. A convolution is linear in either operand, so its gradient
    is the same everywhere: at zero.
    """
    if rule is None:
        return pull_back(lambda x: convolution(x, kernel), ops.zeros_like(x), error)
    _, weight, g, lengths = _as_matrices(convolution, x, kernel)
    e = _images(convolution, error)
    if convolution.is_transposed:
        dx = patches.convolve(e, weight, g, rule, state)
    else:
        dx = patches.gradient_of_input(e, weight, lengths, g, rule, state)
    return _of_images(convolution, dx)


def _wgrad(
    convolution: Convolution, x: Any, kernel: Any, error: Any, rules: ProductRules, state: Any
) -> Any:
    """As `_dgrad`; where there is a transform, operands are prepared as matrices."""
    if rules.sum is None and rules.first.turn is None:
        return pull_back(lambda kernel: convolution(x, kernel), ops.zeros_like(kernel), error)
    image, weight, g, _ = _as_matrices(convolution, x, kernel)
    e, size = _images(convolution, error), weight.shape[2:]
    if convolution.is_transposed:
        e, image = image, e
        rules = ProductRules(rules.second, rules.first, rules.sum)
    dw = patches.gradient_of_weight(e, image, size, g, rules, state)
    spatial = range(2, len(kernel.shape))
    if convolution.name == "nn.depthwise_conv":
        return ops.reshape(ops.transpose(dw, (*spatial, 1, 0)), kernel.shape)
    return ops.transpose(dw, (*spatial, 1, 0))


def _as_matrices(
    convolution: Convolution, x: Any, kernel: Any
) -> tuple[Any, Any, patches.Geometry, Sequence[int]]:
    """Image (B, C, *S), kernel (O, C/G, *k) and geometry, as `patches` has them, and the lengths S;
    of a transposed convolution the kernel, the geometry and S of the one it is the gradient of.
    """
    image, spatial = _images(convolution, x), range(len(kernel.shape) - 2)
    if convolution.name == "nn.depthwise_conv":
        kernel = ops.reshape(kernel, (*kernel.shape[:-2], 1, -1))
    weight = ops.transpose(kernel, (len(spatial) + 1, len(spatial), *spatial))
    options = dict(convolution.options)
    lengths, size = image.shape[2:], weight.shape[2:]
    if convolution.is_transposed:
        return image, weight, *patches.transposed_geometry(lengths, size, options)
    return (
        image,
        weight,
        patches.geometry(lengths, size, options, convolution.groups),
        lengths,
    )


def _images(convolution: Convolution, x: Any) -> Any:
    return x if convolution.channels_first else ops.moveaxis(x, -1, 1)


def _of_images(convolution: Convolution, x: Any) -> Any:
    return x if convolution.channels_first else ops.moveaxis(x, 1, -1)


def _channels_last(convolution: Convolution, x: Any) -> Any:
    return ops.moveaxis(x, 1, -1) if convolution.channels_first else x


def _channels_back(convolution: Convolution, x: Any) -> Any:
    return ops.moveaxis(x, -1, 1) if convolution.channels_first else x


def _over_channels(convolution: Convolution, x: Any, prepare: Prepare | None) -> Any:
    """x rounded as (B·S·G, C/G)."""
    if prepare is None:
        return x
    last = _channels_last(convolution, x)
    rows = ops.reshape(last, (-1, last.shape[-1] // convolution.groups))
    return _channels_back(convolution, ops.reshape(prepare(rows), ops.shape(last)))


def _over_pixels(convolution: Convolution, x: Any, prepare: Prepare | None) -> Any:
    """x rounded as (C, B·S)."""
    if prepare is None:
        return x
    last = _channels_last(convolution, x)
    columns = ops.transpose(ops.reshape(last, (-1, last.shape[-1])))
    return _channels_back(
        convolution, ops.reshape(ops.transpose(prepare(columns)), ops.shape(last))
    )


def _kernel(convolution: Convolution, kernel: Any, prepare: Prepare | None, forward: bool) -> Any:
    """The kernel rounded as (k, O, C/G) forward, else as (k, C, O/G)."""
    if prepare is None:
        return kernel
    shape, groups = tuple(kernel.shape), convolution.groups
    k = math.prod(shape[:-2])
    if convolution.is_transposed:
        shape_of_four, order = (k, 1, *shape[-2:]), (0, 1, 2, 3) if forward else (0, 1, 3, 2)
    else:
        per_group = 1 if convolution.name == "nn.depthwise_conv" else shape[-2]
        shape_of_four = (k, per_group, groups, math.prod(shape[-2:]) // (per_group * groups))
        order = (0, 2, 3, 1) if forward else (0, 2, 1, 3)
    arranged = ops.transpose(ops.reshape(kernel, shape_of_four), order)
    turned = tuple(arranged.shape)
    matrix = ops.reshape(arranged, (turned[0], turned[1] * turned[2], turned[3]))
    back = sorted(range(4), key=order.__getitem__)
    values = ops.reshape(prepare(matrix), turned)
    return ops.reshape(ops.transpose(values, back), shape)
