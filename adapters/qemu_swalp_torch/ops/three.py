"""The three products of a layer as they are computed: forward of input and weight, dgrad of error
and weight, wgrad of error and input.

Each is called with its two operands in the order of `qemu_swalp.training.OPERANDS`. Input, weight
and error may be other tensors of their shapes, as in higher derivatives. `like` is a tensor of the
result's shape.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import linear as product

from qemu_swalp.interop.torch import unviewed

from .accumulate import (
    Geometry,
    convolve,
    gradient_of_input,
    gradient_of_weight,
    pixels_and_columns,
    times,
)
from .masked import Prepare
from .operands import Operand, Operands, ProductRules, is_plain, prepared, unscaled


class OfRows(NamedTuple):
    """Input (M, K), weight (N, K), error (M, N)."""

    operands: Operands

    def forward(self, x: Tensor, weight: Tensor, how: ProductRules, bias: Tensor | None) -> Tensor:
        w = prepared(unviewed(weight), how.second)
        return _product(prepared(x, how.first), w, how, bias)

    def dgrad(self, error: Tensor, weight: Tensor, how: ProductRules, like: Tensor) -> Tensor:
        w = prepared(unviewed(weight).t(), how.second)
        return _product(prepared(error, how.first), w, how)

    def wgrad(self, error: Tensor, x: Tensor, how: ProductRules, like: Tensor) -> Tensor:
        a = prepared(x.t(), how.second)
        return _product(prepared(error.t(), how.first), a, how)

    def once(self, place: str, x: Tensor, prepare: Prepare) -> Tensor:
        """Input or weight prepared as the forward product takes it."""
        return prepare(x)


class OfMatrices(NamedTuple):
    """Input (…, M, K), weight (…, K, N), error (…, M, N), broadcast."""

    operands: Operands

    def forward(self, a: Tensor, b: Tensor, how: ProductRules, bias: Tensor | None) -> Tensor:
        y = _matmul(prepared(a, how.first), prepared(b.mT, how.second).mT, how)
        return y if bias is None else y + bias

    def dgrad(self, error: Tensor, b: Tensor, how: ProductRules, like: Tensor) -> Tensor:
        da = _matmul(prepared(error, how.first), prepared(b, how.second).mT, how)
        return da.sum_to_size(like.shape)

    def wgrad(self, error: Tensor, a: Tensor, how: ProductRules, like: Tensor) -> Tensor:
        db = _matmul(prepared(a.mT, how.second), prepared(error.mT, how.first).mT, how)
        return db.sum_to_size(like.shape)

    def once(self, place: str, x: Tensor, prepare: Prepare) -> Tensor:
        return prepare(x) if place == "input" else prepare(x.mT).mT


class OfConvolution(NamedTuple):
    """Input (B, C, *S), weight (A, I, *k), error (B, O, *P)."""

    operands: Operands
    geometry: Geometry

    def forward(self, x: Tensor, weight: Tensor, how: ProductRules, bias: Tensor | None) -> Tensor:
        geometry = self.geometry
        a = _over_channels(x, how.first, geometry.groups)
        w = _kernel(weight, how.second, geometry, forward=True)
        if how.sum is None and how.first.factor == how.second.factor == 1:
            return torch.convolution(a, w, bias, *geometry)
        if how.sum is None:
            y = torch.convolution(a, w, None, *geometry)
        elif geometry.transposed:
            y = gradient_of_input(a, w, _size(x, weight, geometry), geometry, how.sum)
        else:
            y = convolve(a, w, geometry, how.sum)
        y = unscaled(y, how)
        return y if bias is None else y + bias.reshape(-1, *(1,) * (x.ndim - 2))

    def dgrad(self, error: Tensor, weight: Tensor, how: ProductRules, like: Tensor) -> Tensor:
        geometry, size = self.geometry, like.shape[2:]
        e = _over_channels(error, how.first, geometry.groups)
        w = _kernel(weight, how.second, geometry, forward=False)
        if how.sum is None:
            dx = _gradients(e, like, w, None, *geometry, [True, False, False])[0]
        elif geometry.transposed:
            dx = convolve(e, w, geometry, how.sum, size)
        else:
            dx = gradient_of_input(e, w, size, geometry, how.sum)
        return unscaled(dx, how)

    def wgrad(self, error: Tensor, x: Tensor, how: ProductRules, like: Tensor) -> Tensor:
        """A transform mixes the pixels, which then meet no kernel position any more: the operands
        are then what meets at each, (G, O/G, P) and (G, C/G·k, P), and these are what is rounded.
        """
        geometry, kernel = self.geometry, like.shape[2:]
        if how.first.turn is not None:
            first, second = (
                (how.second, how.first) if geometry.transposed else (how.first, how.second)
            )
            pair = (x, error) if geometry.transposed else (error, x)
            e, a = pixels_and_columns(*pair, kernel, geometry)
            y = _matmul(prepared(e, first), prepared(a.mT, second).mT, how)
            return y.reshape(like.shape)
        e, a = _over_pixels(error, how.first), _over_pixels(x, how.second)
        if how.sum is None:
            dw: Tensor = _gradients(e, a, like, None, *geometry, [False, True, False])[1]
            return unscaled(dw, how)
        pair = (a, e) if geometry.transposed else (e, a)
        return unscaled(gradient_of_weight(*pair, kernel, geometry, how.sum), how)

    def once(self, place: str, x: Tensor, prepare: Prepare) -> Tensor:
        if place == "input":
            return _over_channels(x, prepare, self.geometry.groups)
        return _kernel(x, prepare, self.geometry, forward=True)


Three: TypeAlias = OfRows | OfMatrices | OfConvolution

_gradients = torch.ops.aten.convolution_backward


def _product(x: Tensor, w: Tensor, how: ProductRules, bias: Tensor | None = None) -> Tensor:
    """x·wᵀ + bias, which is added to the sums as they are."""
    if how.sum is None and how.first.factor == how.second.factor == 1:
        return product(x, w, bias)
    y = unscaled(product(x, w) if how.sum is None else times(x, w.mT, how.sum), how)
    return y if bias is None else y + bias


def _matmul(a: Tensor, b: Tensor, how: ProductRules) -> Tensor:
    return unscaled(torch.matmul(a, b) if how.sum is None else times(a, b, how.sum), how)


def _size(x: Tensor, weight: Tensor, g: Geometry) -> torch.Size:
    """The spatial size of a transposed convolution's output."""
    lengths = zip(
        x.shape[2:],
        weight.shape[2:],
        g.stride,
        g.padding,
        g.dilation,
        g.output_padding,
        strict=True,
    )
    return torch.Size(
        [(n - 1) * s - 2 * p + d * (k - 1) + 1 + more for n, k, s, p, d, more in lengths]
    )


def _over_channels(x: Tensor, operand: Operand | Prepare, groups: int) -> Tensor:
    """x of shape (B, C, *S) rounded as (B·S·groups, C/groups)."""
    batch, channels = x.shape[:2]
    # Strides of one channel that is moved are of two layouts, of which traces may take the other.
    order = (0, 2, 1) if channels > 1 else (0, 1, 2)
    return _arranged(x, operand, (batch, channels, -1), order, (-1, channels // groups))


def _over_pixels(x: Tensor, operand: Operand) -> Tensor:
    """x of shape (B, C, *S) rounded as (C, B·S)."""
    batch, channels = x.shape[:2]
    return _arranged(x, operand, (batch, channels, -1), (1, 0, 2), (channels, -1))


def _kernel(
    weight: Tensor, operand: Operand | Prepare, geometry: Geometry, forward: bool
) -> Tensor:
    """weight of shape (A, I, *k) rounded as (k, A, I) where the sum runs over I, else as (k, G·I,
    A/G).
    """
    a, i = weight.shape[:2]
    weight = unviewed(weight)
    if forward != geometry.transposed:
        return _arranged(weight, operand, (a, i, -1), (2, 0, 1), (-1, a, i))
    groups = geometry.groups
    return _arranged(
        weight, operand, (groups, a // groups, i, -1), (3, 0, 2, 1), (-1, groups * i, a // groups)
    )


def _arranged(
    x: Tensor,
    operand: Operand | Prepare,
    shape: tuple[int, ...],
    order: tuple[int, ...],
    matrix: tuple[int, ...],
) -> Tensor:
    """x rounded in another arrangement: reshaped, its axes in another order, reshaped again; and
    back.
    """
    prepare = operand if callable(operand) else partial(prepared, operand=operand)
    if not x.numel() or (isinstance(operand, Operand) and is_plain(operand)):
        return x
    turned = x.reshape(shape).permute(order)
    back = sorted(range(len(order)), key=order.__getitem__)
    return prepare(turned.reshape(matrix)).reshape(turned.shape).permute(back).reshape(x.shape)
