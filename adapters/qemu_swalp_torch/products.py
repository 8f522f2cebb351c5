"""Matrix products whose operands are rounded, each by itself, in the forward product and the two of the backward.

Every operand is handed to its quantizer with the axis that is summed over last, so that blocks with axis=-1 lie along
the sum: the same input in blocks along its channels forward, along the batch in the gradient of the weight.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear as product

from .functional import straight_through
from .graph import Rule, apply_rule
from .tensors import unviewed


class Operands(NamedTuple):
    """Rules of `qemu_swalp.training.OPERANDS`, in their order; None leaves an operand as it is."""

    forward_input: Rule | None = None
    forward_weight: Rule | None = None
    dgrad_error: Rule | None = None
    dgrad_weight: Rule | None = None
    wgrad_error: Rule | None = None
    wgrad_input: Rule | None = None


class Geometry(NamedTuple):
    """Arguments of `torch.convolution`."""

    stride: Any
    padding: Any
    dilation: Any
    transposed: bool
    output_padding: Any
    groups: int


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, operands: Operands) -> Tensor:
    """x·weightᵀ + bias; x of shape (…, K), weight (N, K).

    Operands as their quantizers see them, M the product of the leading axes of x: (M, K) and (N, K) forward, error
    (M, N) and weight (K, N) in dgrad, error (N, M) and input (K, M) in wgrad.
    """
    result: Tensor = _Linear.apply(*autocast(x, weight, bias), operands)  # type: ignore[no-untyped-call]
    return result


def matmul(a: Tensor, b: Tensor, operands: Operands) -> Tensor:
    """a·b, batched and broadcast as in `torch.matmul`; a of shape (…, M, K), b (…, K, N).

    a is the input; b, here an activation too, stands where a layer has its weight. As their quantizers see them: a
    (…, M, K) and b (…, N, K) forward; error (…, M, N) and b (…, K, N) in dgrad; error (…, N, M) and a (…, K, M) in
    wgrad, the gradient of b.
    """
    a, b, _ = autocast(a, b, None)
    result: Tensor = _Matmul.apply(a, b, operands)  # type: ignore[no-untyped-call]
    return result


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, operands: Operands) -> Tensor:
    """`torch.convolution`; x of shape (B, C, *S), weight (A, I, *k) as PyTorch has it, also where it is transposed.

    Sums run over channels (of one group) and kernel positions; blocks lie along channels. As their quantizers see them,
    P the number of pixels, k that of kernel positions, O output and C input channels, G groups: input (P·G, C/G) and
    weight (k, O, C/G) forward, error (P·G, O/G) and weight (k, C, O/G) in dgrad, error (O, P) and input (C, P) in
    wgrad, where an input pixel, which meets each kernel position, is rounded once.
    """
    x, weight, bias = autocast(x, weight, bias)
    result: Tensor = _Convolution.apply(x, weight, bias, geometry, operands)  # type: ignore[no-untyped-call]
    return result


def autocast(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The operands in the dtype that autocast asks for, where it is on."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        return x, weight, bias
    dtype = torch.get_autocast_dtype(kind)
    return x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def _rounded(x: Tensor, rule: Rule | None) -> Tensor:
    if rule is None:
        return x
    if torch.is_grad_enabled() and x.requires_grad:  # create_graph=True: straight-through
        return straight_through(x, rule, None)
    return apply_rule(x, rule)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, operands: Operands) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.operands = operands
        rows = x.reshape(-1, x.shape[-1])
        y = product(_rounded(rows, operands.forward_input), _rounded(unviewed(weight), operands.forward_weight), bias)
        return y.reshape(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *errors: Any) -> Any:
        x, weight = ctx.saved_tensors
        operands: Operands = ctx.operands
        rows, error = x.reshape(-1, x.shape[-1]), errors[0].reshape(-1, weight.shape[0])
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            dx = product(_rounded(error, operands.dgrad_error), _rounded(unviewed(weight).t(), operands.dgrad_weight))
            dx = dx.reshape(x.shape)
        if ctx.needs_input_grad[1]:
            dw = product(_rounded(error.t(), operands.wgrad_error), _rounded(rows.t(), operands.wgrad_input))
        if ctx.needs_input_grad[2]:
            db = error.sum(0)
        return dx, dw, db, None


class _Matmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, operands: Operands) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.operands = operands
        return torch.matmul(_rounded(a, operands.forward_input), _rounded(b.mT, operands.forward_weight).mT)

    @staticmethod
    def backward(ctx: Any, *errors: Any) -> Any:
        a, b = ctx.saved_tensors
        operands: Operands = ctx.operands
        (error,) = errors
        da = db = None
        if ctx.needs_input_grad[0]:
            da = torch.matmul(_rounded(error, operands.dgrad_error), _rounded(b, operands.dgrad_weight).mT)
            da = da.sum_to_size(a.shape)
        if ctx.needs_input_grad[1]:
            db = torch.matmul(_rounded(a.mT, operands.wgrad_input), _rounded(error.mT, operands.wgrad_error).mT)
            db = db.sum_to_size(b.shape)
        return da, db, None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry,
                operands: Operands) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry, ctx.operands = geometry, operands
        x = _over_channels(x, operands.forward_input, geometry.groups)
        return torch.convolution(x, _kernel(weight, operands.forward_weight, geometry, forward=True), bias, *geometry)

    @staticmethod
    def backward(ctx: Any, *errors: Any) -> Any:
        x, weight = ctx.saved_tensors
        geometry: Geometry = ctx.geometry
        operands: Operands = ctx.operands
        (error,) = errors
        gradients = torch.ops.aten.convolution_backward
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            e = _over_channels(error, operands.dgrad_error, geometry.groups)
            w = _kernel(weight, operands.dgrad_weight, geometry, forward=False)
            dx = gradients(e, x, w, None, *geometry, [True, False, False])[0]
        if ctx.needs_input_grad[1]:
            e, a = _over_pixels(error, operands.wgrad_error), _over_pixels(x, operands.wgrad_input)
            dw = gradients(e, a, weight, None, *geometry, [False, True, False])[1]
        if ctx.needs_input_grad[2]:
            db = error.sum([d for d in range(error.ndim) if d != 1])
        return dx, dw, db, None, None


def _over_channels(x: Tensor, rule: Rule | None, groups: int) -> Tensor:
    """x of shape (B, C, *S) rounded as (B·S·groups, C/groups)."""
    batch, channels = x.shape[:2]
    return _arranged(x, rule, (batch, channels, -1), (0, 2, 1), (-1, channels // groups))


def _over_pixels(x: Tensor, rule: Rule | None) -> Tensor:
    """x of shape (B, C, *S) rounded as (C, B·S)."""
    batch, channels = x.shape[:2]
    return _arranged(x, rule, (batch, channels, -1), (1, 0, 2), (channels, -1))


def _kernel(weight: Tensor, rule: Rule | None, geometry: Geometry, forward: bool) -> Tensor:
    """weight of shape (A, I, *k) rounded as (k, A, I) where the sum runs over I, else as (k, G·I, A/G)."""
    a, i = weight.shape[:2]
    weight = unviewed(weight)
    if forward != geometry.transposed:
        return _arranged(weight, rule, (a, i, -1), (2, 0, 1), (-1, a, i))
    groups = geometry.groups
    return _arranged(weight, rule, (groups, a // groups, i, -1), (3, 0, 2, 1), (-1, groups * i, a // groups))


def _arranged(x: Tensor, rule: Rule | None, shape: tuple[int, ...], order: tuple[int, ...],
              matrix: tuple[int, ...]) -> Tensor:
    """x rounded in another arrangement: reshaped, its axes in another order, reshaped again; and back."""
    if rule is None or not x.numel():
        return x
    turned = x.reshape(shape).permute(order)
    back = sorted(range(len(order)), key=order.__getitem__)
    return _rounded(turned.reshape(matrix), rule).reshape(turned.shape).permute(back).reshape(x.shape)
