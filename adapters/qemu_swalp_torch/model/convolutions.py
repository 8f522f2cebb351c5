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
DEFAULTS: dict[str, Any] = {
    "stride": 1,
    "padding": 0,
    "output_padding": 0,
    "groups": 1,
    "dilation": 1,
}


def spatial(dimensions: int, transposed: bool) -> Handler:
    """`F.conv1d` to `F.conv_transpose3d`."""
    names: tuple[str, ...] = ("stride", "padding", "dilation", "groups")
    if transposed:
        names = ("stride", "padding", "output_padding", "groups", "dilation")

    def handler(
        frame: Frame,
        function: Handler,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *positional: Any,
        **options: Any,
    ) -> Tensor:
        options = {**DEFAULTS, **dict(zip(names, positional, strict=False)), **options}
        padding, dilation = options["padding"], _tuple(options["dilation"], dimensions)
        stride = _tuple(options["stride"], dimensions)
        if isinstance(padding, str):
            input, padding = _padded(input, weight, stride, dilation, padding)
        geometry = Geometry(
            stride,
            _tuple(padding, dimensions),
            dilation,
            transposed,
            _tuple(options["output_padding"], dimensions),
            options["groups"],
        )
        batched = input.ndim == weight.ndim
        y = _convolved(frame, input if batched else input[None], weight, bias, geometry)
        return y if batched else y[0]

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
