"""Convolutions, transposed ones included, with operands and sums rounded."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ops.accumulate import Geometry
from ..ops.matmul import convolution
from .frames import Frame, is_weight

Handler = Callable[..., Any]


def spatial(dimensions: int) -> Handler:
    """`F.conv1d` to `F.conv3d`."""

    def handler(
        frame: Frame,
        function: Handler,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        steps, spread = _tuple(stride, dimensions), _tuple(dilation, dimensions)
        if isinstance(padding, str):
            input, padding = _padded(input, weight, steps, spread, padding)
        none = (0,) * dimensions
        geometry = Geometry(steps, _tuple(padding, dimensions), spread, False, none, groups)
        return _batched(frame, input, weight, bias, geometry)

    return handler


def spatial_transposed(dimensions: int) -> Handler:
    """`F.conv_transpose1d` to `F.conv_transpose3d`."""

    def handler(
        frame: Frame,
        function: Handler,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Tensor:
        steps, edges, spread, beyond = (
            _tuple(x, dimensions) for x in (stride, padding, dilation, output_padding)
        )
        geometry = Geometry(steps, edges, spread, True, beyond, groups)
        return _batched(frame, input, weight, bias, geometry)

    return handler


def general(
    frame: Frame,
    function: Handler,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Tensor:
    """As `torch.convolution`."""
    n = weight.ndim - 2
    geometry = Geometry(
        _tuple(stride, n),
        _tuple(padding, n),
        _tuple(dilation, n),
        transposed,
        _tuple(output_padding, n),
        groups,
    )
    return _convolved(frame, input, weight, bias, geometry)


def _batched(
    frame: Frame, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry
) -> Tensor:
    """Of one sample too, without the axis of the batch."""
    if x.ndim == weight.ndim:
        return _convolved(frame, x, weight, bias, geometry)
    return _convolved(frame, x[None], weight, bias, geometry)[0]


def _convolved(
    frame: Frame, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry
) -> Tensor:
    products = frame.products
    if products is None or not x.is_floating_point():
        return torch.convolution(x, weight, bias, *geometry)
    part = products.next_part()
    by_weight = is_weight(weight)
    rules = products.of(part) if by_weight else products.of_activations(part)
    y = convolution(x, weight, bias, geometry, rules)
    products.note(
        2 * (x if geometry.transposed else y).numel() * math.prod(weight.shape[1:]),
        rounded=by_weight or products.site.attention,
    )
    return y


def _padded(
    x: Tensor, weight: Tensor, stride: tuple[int, ...], dilation: tuple[int, ...], padding: str
) -> tuple[Tensor, int]:
    if padding == "valid":
        return x, 0
    if padding != "same" or any(s != 1 for s in stride):
        raise RuntimeError(
            f"padding must be 'valid', or 'same' with a stride of 1, got {padding!r} with stride"
            f" {stride}"
        )
    ends: list[int] = []
    for kernel, step in zip(reversed(weight.shape[2:]), reversed(dilation), strict=True):
        total = step * (kernel - 1)
        ends += [total // 2, total - total // 2]
    return F.pad(x, ends), 0


def _tuple(value: Any, length: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * length if len(values) == 1 else values
