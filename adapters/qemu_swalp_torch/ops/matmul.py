"""Matrix products with operands and sums rounded, each by itself: the forward product and the two
of the backward.

Every operand is handed to its quantizer with the axis that is summed over last, so that blocks with
axis=-1 lie along the sum: the same input in blocks along its channels forward, along the batch in
the gradient of the weight.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear as product

from qemu_swalp.interop.torch import unviewed

from .._compat import without_interception
from ..tensors.transforms import Transformable, applied, transformable
from .accumulate import (
    Geometry,
    convolve,
    gradient_of_input,
    gradient_of_weight,
    pixels_and_columns,
    times,
)
from .masked import Prepare, rounded_once
from .operands import Operand, Operands, ProductRules, is_plain, prepared, unscaled


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, operands: Operands) -> Tensor:
    """x·weightᵀ + bias; x of shape (…, K), weight (N, K).

    Operands as their quantizers see them, M the product of the leading axes of x: (M, K) and (N, K)
    forward, error (M, N) and weight (K, N) in dgrad, error (N, M) and input (K, M) in wgrad.
    """
    with without_interception():
        rows, weight, bias = autocast(x.reshape(-1, x.shape[-1]), weight, bias)
        if operands.from_rounded:
            first, second, operands = rounded_once(operands)
            rows, weight = first(rows), second(weight)
        y: Tensor = applied(_Linear, rows, weight, bias, operands)
        return y.reshape(*x.shape[:-1], weight.shape[0])


def matmul(a: Tensor, b: Tensor, operands: Operands) -> Tensor:
    """a·b, batched and broadcast as in `torch.matmul`; a of shape (…, M, K), b (…, K, N).

    a is the input; b, here an activation too, stands where a layer has its weight. As their
    quantizers see them: a (…, M, K) and b (…, N, K) forward; error (…, M, N) and b (…, K, N) in
    dgrad; error (…, N, M) and a (…, K, M) in wgrad, the gradient of b.
    """
    with without_interception():
        a, b, _ = autocast(a, b.view_as(b) if a is b else b, None)
        if operands.from_rounded:
            first, second, operands = rounded_once(operands)
            a, b = first(a), second(b.mT).mT
        result: Tensor = applied(_Matmul, a, b, operands)
    return result


def convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, operands: Operands
) -> Tensor:
    """`torch.convolution`; x of shape (B, C, *S), weight (A, I, *k) as PyTorch has it, also where
    it is transposed.

    Sums run over channels (of one group) and kernel positions; blocks lie along channels. As their
    quantizers see them, P the number of pixels, k that of kernel positions, O output and C input
    channels, G groups: input (P·G, C/G) and weight (k, O, C/G) forward, error (P·G, O/G) and weight
    (k, C, O/G) in dgrad, error (O, P) and input (C, P) in wgrad, where an input pixel, which meets
    each kernel position, is rounded once.
    """
    with without_interception():
        x, weight, bias = autocast(x, weight, bias)
        if operands.from_rounded:
            first, second, operands = rounded_once(operands)
            x = _over_channels(x, first, geometry.groups)
            weight = _kernel(weight, second, geometry, forward=True)
        result: Tensor = applied(_Convolution, x, weight, bias, geometry, operands)
    return result


def autocast(
    x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The operands in the dtype that autocast asks for, where it is on."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return x, weight, bias
    dtype = torch.get_autocast_dtype(kind)
    return x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def _product(x: Tensor, w: Tensor, how: ProductRules, bias: Tensor | None = None) -> Tensor:
    """x·wᵀ + bias, which is added to the sums as they are."""
    if how.sum is None and how.first.factor == how.second.factor == 1:
        return product(x, w, bias)
    y = unscaled(product(x, w) if how.sum is None else times(x, w.mT, how.sum), how)
    return y if bias is None else y + bias


def _matmul(a: Tensor, b: Tensor, how: ProductRules) -> Tensor:
    return unscaled(torch.matmul(a, b) if how.sum is None else times(a, b, how.sum), how)


@transformable
class _Linear(Transformable):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, operands: Operands) -> Tensor:
        how = operands.forward
        w = prepared(unviewed(weight), how.second)
        return _product(prepared(x, how.first), w, how, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.operands = inputs[3]

    @staticmethod
    def backward(ctx: Any, *errors: Any) -> Any:
        x, weight = ctx.saved_tensors
        operands: Operands = ctx.operands
        (error,) = errors
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            how = operands.dgrad
            w = prepared(unviewed(weight).t(), how.second)
            dx = _product(prepared(error, how.first), w, how)
        if ctx.needs_input_grad[1]:
            how = operands.wgrad
            a = prepared(x.t(), how.second)
            dw = _product(prepared(error.t(), how.first), a, how)
        if ctx.needs_input_grad[2]:
            db = error.sum(0)
        return dx, dw, db, None


@transformable
class _Matmul(Transformable):
    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.operands = inputs[2]

    @staticmethod
    def forward(a: Tensor, b: Tensor, operands: Operands) -> Tensor:
        how = operands.forward
        return _matmul(prepared(a, how.first), prepared(b.mT, how.second).mT, how)

    @staticmethod
    def backward(ctx: Any, *errors: Any) -> Any:
        a, b = ctx.saved_tensors
        operands: Operands = ctx.operands
        (error,) = errors
        da = db = None
        if ctx.needs_input_grad[0]:
            how = operands.dgrad
            da = _matmul(prepared(error, how.first), prepared(b, how.second).mT, how)
            da = da.sum_to_size(a.shape)
        if ctx.needs_input_grad[1]:
            how = operands.wgrad
            db = _matmul(prepared(a.mT, how.second), prepared(error.mT, how.first).mT, how)
            db = db.sum_to_size(b.shape)
        return da, db, None


@transformable
class _Convolution(Transformable):
    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.geometry, ctx.operands = inputs[3:]

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: Geometry,
        operands: Operands,
    ) -> Tensor:
        how = operands.forward
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

    @staticmethod
    def backward(ctx: Any, *errors: Any) -> Any:
        x, weight = ctx.saved_tensors
        geometry: Geometry = ctx.geometry
        operands: Operands = ctx.operands
        (error,) = errors
        gradients = torch.ops.aten.convolution_backward
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            how = operands.dgrad
            e = _over_channels(error, how.first, geometry.groups)
            w = _kernel(weight, how.second, geometry, forward=False)
            if how.sum is None:
                dx = gradients(e, x, w, None, *geometry, [True, False, False])[0]
            elif geometry.transposed:
                dx = convolve(e, w, geometry, how.sum, x.shape[2:])
            else:
                dx = gradient_of_input(e, w, x.shape[2:], geometry, how.sum)
            dx = unscaled(dx, how)
        if ctx.needs_input_grad[1]:
            dw = _gradient_of_weight(error, x, weight, geometry, operands.wgrad)
        if ctx.needs_input_grad[2]:
            db = error.sum([d for d in range(error.ndim) if d != 1])
        return dx, dw, db, None, None


def _gradient_of_weight(
    error: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, how: ProductRules
) -> Tensor:
    """The gradient of a convolution's weight.

    A transform mixes the pixels, which then meet no kernel position any more: the operands are then
    what meets at each, (G, O/G, P) and (G, C/G·k, P), and these are what is rounded.
    """
    kernel = weight.shape[2:]
    if how.first.turn is not None:
        first, second = (how.second, how.first) if geometry.transposed else (how.first, how.second)
        pair = (x, error) if geometry.transposed else (error, x)
        e, a = pixels_and_columns(*pair, kernel, geometry)
        y = _matmul(prepared(e, first), prepared(a.mT, second).mT, how)
        return y.reshape(weight.shape)
    e, a = _over_pixels(error, how.first), _over_pixels(x, how.second)
    if how.sum is None:
        options = (*geometry, [False, True, False])
        dw: Tensor = torch.ops.aten.convolution_backward(e, a, weight, None, *options)[1]
        return unscaled(dw, how)
    pair = (a, e) if geometry.transposed else (e, a)
    return unscaled(gradient_of_weight(*pair, kernel, geometry, how.sum), how)


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
    return _arranged(x, operand, (batch, channels, -1), (0, 2, 1), (-1, channels // groups))


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
