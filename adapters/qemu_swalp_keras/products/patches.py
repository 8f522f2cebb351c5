"""Convolutions as products of matrices, whose sums are accumulated in low precision, as in
`qemu_swalp_torch.ops.accumulate`.

Images are (B, C, *S) here, kernels (O, C/G, *k), P is the number of output pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from keras import ops

from ..calls.operands import ProductRules, prepared
from ..calls.windows import known, margins, windows
from ..layers.straight_through import Rule
from .contraction import accumulated


class Geometry(NamedTuple):
    """A number for each spatial axis; pads are pairs."""

    strides: Sequence[int]
    dilations: Sequence[int]
    pads: Sequence[tuple[int, int]]
    groups: int


def geometry(
    lengths: Sequence[int], kernel: Sequence[int], options: dict[str, Any], groups: int
) -> Geometry:
    """From the arguments of a convolution of Keras, by the lengths of the images it reads."""
    strides, dilations = _of_axes(kernel, options)
    padding = options.get("padding", "valid")
    pads = [
        margins(*each, padding) for each in zip(lengths, kernel, strides, dilations, strict=True)
    ]
    return Geometry(strides, dilations, pads, groups)


def transposed_geometry(
    lengths: Sequence[int], kernel: Sequence[int], options: dict[str, Any]
) -> tuple[Geometry, list[int]]:
    """Of the convolution that a transposed one of Keras is the gradient of, and the lengths of the
    images which that convolution reads: those that the transposed one makes.

    lengths : of the images that the transposed one reads. What its output has beyond the last
        window, by `output_padding` or long strides, is a negative pad: nothing meets it.
    """
    strides, dilations = _of_axes(kernel, options)
    more = options.get("output_padding")
    extra = (more,) * len(kernel) if more is None or isinstance(more, int) else tuple(more)
    made, pads = [], []
    for length, k, stride, dilation, beyond in zip(
        lengths, kernel, strides, dilations, extra, strict=True
    ):
        reach = dilation * (k - 1)
        seen = (known(length) - 1) * stride + reach + 1
        if options.get("padding", "valid") == "valid":
            made.append(seen + (max(stride - reach - 1, 0) if beyond is None else beyond))
            first = 0
        else:
            odd = (reach + 1) % 2
            made.append(length * stride if beyond is None else seen - reach - 1 + odd + beyond)
            first = max(seen - made[-1], 0) // 2
        pads.append((first, seen - made[-1] - first))
    return Geometry(strides, dilations, pads, 1), made


def _of_axes(
    kernel: Sequence[int], options: dict[str, Any]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    strides, dilations = (
        (value,) * len(kernel) if isinstance(value, int) else tuple(value)
        for value in (options.get("strides", 1), options.get("dilation_rate", 1))
    )
    return strides, dilations


def convolve(x: Any, weight: Any, g: Geometry, rule: Rule, state: Any) -> Any:
    """Summed over channels of a group, then kernel positions: (G, B·P, C/G·k) · (G, C/G·k, O/G)."""
    a, pixels = _columns(x, weight.shape[2:], g)
    parted = ops.reshape(weight, (g.groups, weight.shape[0] // g.groups, -1))
    y = accumulated(a, ops.swapaxes(parted, 1, 2), rule, state)
    y = ops.reshape(ops.moveaxis(y, 0, 1), (-1, *pixels, weight.shape[0]))
    return ops.moveaxis(y, -1, 1)


def gradient_of_input(
    error: Any, weight: Any, lengths: Sequence[int], g: Geometry, rule: Rule, state: Any
) -> Any:
    """A convolution of the errors, with zeros between them where there are strides, by the turned
    kernel: (G, B·S, O/G·k) · (G, O/G·k, C/G).
    """
    kernel = weight.shape[2:]
    spread, pads = error, []
    for axis, (k, stride, dilation, (first, _), length) in enumerate(
        zip(kernel, g.strides, g.dilations, g.pads, lengths, strict=True), start=2
    ):
        spread = _spread(spread, axis, stride)
        reach = dilation * (k - 1)
        pads.append((reach - first, length + first - spread.shape[axis]))
    outputs, inputs = weight.shape[0] // g.groups, weight.shape[1]
    parted = ops.reshape(weight, (g.groups, outputs, inputs, *kernel))
    turned = ops.reshape(ops.swapaxes(parted, 1, 2), (-1, outputs, *kernel))
    turned = ops.flip(turned, tuple(range(2, len(turned.shape))))
    ones = (1,) * len(kernel)
    return convolve(spread, turned, Geometry(ones, g.dilations, pads, g.groups), rule, state)


def gradient_of_weight(
    error: Any, x: Any, kernel: Sequence[int], g: Geometry, rules: ProductRules, state: Any
) -> Any:
    """Summed over the batch, then output pixels: (G, O/G, B·P) · (G, B·P, C/G·k).

    Operands are prepared here only where they are transformed, which mixes the pixels.
    """
    b, _ = _columns(x, kernel, g)
    outputs = error.shape[1]
    a = ops.reshape(ops.swapaxes(error, 0, 1), (g.groups, outputs // g.groups, -1))
    if rules.first.turn is not None:
        a = prepared(a, rules.first, state)
        b = ops.swapaxes(prepared(ops.swapaxes(b, 1, 2), rules.second, state), 1, 2)
    return ops.reshape(accumulated(a, b, rules.sum, state), (outputs, -1, *kernel))


def _columns(x: Any, kernel: Sequence[int], g: Geometry) -> tuple[Any, tuple[int, ...]]:
    """What the kernel meets at each output pixel, (G, B·P, C/G·k), and the pixels' lengths."""
    for axis, (first, last) in enumerate(g.pads, start=2):
        if last < 0:
            x = ops.take(x, range(x.shape[axis] + last), axis)
        pads = [(0, 0)] * len(x.shape)
        pads[axis] = (first, max(last, 0))
        x = ops.pad(x, pads)
    met = windows(x, kernel, g.strides, g.dilations)
    n, channels = len(kernel), x.shape[1] // g.groups
    pixels = tuple(met.shape[2 : 2 + n])
    met = ops.reshape(met, (-1, g.groups, channels, *met.shape[2:]))
    met = ops.transpose(met, (1, 0, *range(3, 3 + n), 2, *range(3 + n, 3 + 2 * n)))
    return ops.reshape(met, (g.groups, -1, channels * math.prod(kernel))), pixels


def _spread(x: Any, axis: int, stride: int) -> Any:
    """With stride - 1 zeros between the elements of an axis."""
    if stride == 1:
        return x
    length = x.shape[axis]
    wide = ops.expand_dims(x, axis + 1)
    pads = [(0, stride - 1 if d == axis + 1 else 0) for d in range(len(wide.shape))]
    shape = ops.shape(x)
    spread = ops.reshape(ops.pad(wide, pads), (*shape[:axis], length * stride, *shape[axis + 1 :]))
    return ops.take(spread, range(length * stride - (stride - 1)), axis)
