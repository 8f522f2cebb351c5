"""Means of windows, each elementwise operation rounded; arguments are those of PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partialmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from .pointwise_functions import PointwiseFunctions

Lengths = int | Sequence[int]


class Pooling(PointwiseFunctions):
    """Average pooling made of rounded operations."""

    def _adaptive(self, x: Tensor, output_size: Lengths, *, axes: int) -> Tensor:
        """Output i is the mean from ⌊i·n/m⌋ to ⌈(i + 1)·n/m⌉, as PyTorch has it."""
        wanted = _lengths(output_size, axes)
        for axis, count in zip(range(-axes, 0), wanted, strict=True):
            if count is None or count == x.shape[axis]:
                continue
            length = x.shape[axis]
            spans = [(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]
            means = [self.mean(x.narrow(axis, a, b - a), axis, True) for a, b in spans]
            x = torch.cat(means, axis)
        return x

    def _pooled(
        self,
        x: Tensor,
        kernel_size: Lengths,
        stride: Lengths | None = None,
        padding: Lengths = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        *,
        axes: int,
    ) -> Tensor:
        kernel = _lengths(kernel_size, axes)
        steps = kernel if stride is None or stride == () else _lengths(stride, axes)
        margins = _lengths(padding, axes)
        shape = [1] * (x.ndim - axes) + list(x.shape[-axes:])
        inside = F.pad(x.new_ones(shape), _both(margins), value=float(count_include_pad))
        x = F.pad(x, _both(margins))
        for axis, k, s in zip(range(-axes, 0), kernel, steps, strict=True):
            rest = (x.shape[axis] - k) % s
            if ceil_mode and rest and x.shape[axis] - rest + s - k < x.shape[axis] - margins[axis]:
                more = [0, 0] * (-axis - 1) + [0, s - rest]
                x, inside = F.pad(x, more), F.pad(inside, more)
        first = x.ndim - axes
        for axis, k, s in zip(range(first, x.ndim), kernel, steps, strict=True):
            x, inside = x.unfold(axis, k, s), inside.unfold(axis, k, s)
        total = self.sum(x, tuple(range(-axes, 0)))
        if divisor_override is not None:
            return self.div(total, divisor_override)
        if not ceil_mode and (count_include_pad or not any(margins)):
            return self.div(total, math.prod(kernel))
        return self.div(total, inside.sum(tuple(range(-axes, 0))))

    adaptive_avg_pool1d = partialmethod(_adaptive, axes=1)
    adaptive_avg_pool2d = partialmethod(_adaptive, axes=2)
    adaptive_avg_pool3d = partialmethod(_adaptive, axes=3)
    avg_pool1d = partialmethod(_pooled, axes=1)
    avg_pool2d = partialmethod(_pooled, axes=2)
    avg_pool3d = partialmethod(_pooled, axes=3)


def _lengths(value: Lengths, axes: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * axes if len(values) == 1 else values


def _both(margins: Sequence[int]) -> list[int]:
    return [n for margin in reversed(margins) for n in (margin, margin)]
