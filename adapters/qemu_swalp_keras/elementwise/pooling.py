"""Means of windows, each elementwise operation rounded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from ..calls.windows import margins, windows
from .operations import Operations

Lengths = int | Sequence[int]


def _average_pool(
    o: Operations,
    inputs: Any,
    pool_size: Lengths,
    strides: Lengths | None = None,
    padding: str = "valid",
    data_format: str | None = None,
) -> Any:
    """Zeros beyond the border do not count."""
    x, first = _channels_first(inputs, data_format)
    axes = range(2, len(x.shape))
    kernel = _lengths(pool_size, len(axes))
    steps = kernel if strides is None else _lengths(strides, len(axes))
    pads = [
        margins(x.shape[d], k, s, 1, padding) for d, k, s in zip(axes, kernel, steps, strict=True)
    ]
    inside = ops.ones((1, 1, *x.shape[2:]), x.dtype)
    x, inside = (
        windows(ops.pad(t, [(0, 0), (0, 0), *pads]), kernel, steps, (1,) * len(axes))
        for t in (x, inside)
    )
    over = tuple(range(2 + len(axes), 2 + 2 * len(axes)))
    total = o.sum(x, over)
    padded = any(n for pair in pads for n in pair)
    y = o.divide(total, ops.sum(inside, over) if padded else math.prod(kernel))
    return y if first else ops.moveaxis(y, 1, -1)


def _adaptive_average_pool(
    o: Operations, inputs: Any, output_size: Lengths, data_format: str | None = None
) -> Any:
    """Output i is the mean from ⌊i·n/m⌋ to ⌈(i + 1)·n/m⌉."""
    x, first = _channels_first(inputs, data_format)
    for axis, count in enumerate(_lengths(output_size, len(x.shape) - 2), start=2):
        length = x.shape[axis]
        if count in (None, length):
            continue
        spans = [(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]
        parts = [ops.take(x, range(a, b), axis) for a, b in spans]
        x = ops.concatenate([o.mean(part, axis, True) for part in parts], axis)
    return x if first else ops.moveaxis(x, 1, -1)


def _channels_first(x: Any, data_format: str | None) -> tuple[Any, bool]:
    first = (data_format or keras.config.image_data_format()) == "channels_first"
    return (x if first else ops.moveaxis(x, -1, 1)), first


def _lengths(value: Lengths, axes: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * axes if len(values) == 1 else values


POOLING = {"nn.average_pool": _average_pool, "nn.adaptive_average_pool": _adaptive_average_pool}
"""By the name of a function of the backend."""
