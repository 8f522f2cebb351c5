"""Matrix products with operands and sums rounded, each by itself: the forward product and the two
of the backward.

Every operand is handed to its quantizer with the axis that is summed over last, so that blocks with
axis=-1 lie along the sum: the same input in blocks along its channels forward, along the batch in
the gradient of the weight.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear as product

from qemu_swalp.interop.torch import unviewed

from .._compat import without_interception
from ..tensors.custom_ops import Rule, apply_rule
from ..tensors.straight_through import straight_through
from ..tensors.transforms import Transformable, applied, needs_function, transformable
from .accumulate import Geometry, convolve, gradient_of_input, gradient_of_weight, times


class Operands(NamedTuple):
    """Rules of `qemu_swalp.training.OPERANDS` and `SUMS`, in their order; None leaves an operand as
    it is, and a sum to PyTorch.
    """

    forward_input: Rule | None = None
    forward_weight: Rule | None = None
    dgrad_error: Rule | None = None
    dgrad_weight: Rule | None = None
    wgrad_error: Rule | None = None
    wgrad_input: Rule | None = None
    forward_sum: Rule | None = None
    dgrad_sum: Rule | None = None
    wgrad_sum: Rule | None = None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, operands: Operands) -> Tensor:
    """x·weightᵀ + bias; x of shape (…, K), weight (N, K).

    Operands as their quantizers see them, M the product of the leading axes of x: (M, K) and (N, K)
    forward, error (M, N) and weight (K, N) in dgrad, error (N, M) and input (K, M) in wgrad.
    """
    with without_interception():
        rows, weight, bias = autocast(x.reshape(-1, x.shape[-1]), weight, bias)
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
        result: Tensor = applied(_Convolution, x, weight, bias, geometry, operands)
    return result


def autocast(
    x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The operands in the dtype that autocast asks for, where it is on."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        return x, weight, bias
    dtype = torch.get_autocast_dtype(kind)
    return x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def _rounded(x: Tensor, rule: Rule | None) -> Tensor:
    if rule is None:
        return x
    if needs_function(x):  # create_graph=True: straight-through
        return straight_through(x, rule, None)
    return apply_rule(x, rule)


def _product(x: Tensor, w: Tensor, rule: Rule | None, bias: Tensor | None = None) -> Tensor:
    """x·wᵀ + bias, which is added to the sums as they are."""
    if rule is None:
        return product(x, w, bias)
    y = times(x, w.mT, rule)
    return y if bias is None else y + bias


def _matmul(a: Tensor, b: Tensor, rule: Rule | None) -> Tensor:
    return torch.matmul(a, b) if rule is None else times(a, b, rule)


@transformable
class _Linear(Transformable):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, operands: Operands) -> Tensor:
        w = _rounded(unviewed(weight), operands.forward_weight)
        return _product(_rounded(x, operands.forward_input), w, operands.forward_sum, bias)

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
            w = _rounded(unviewed(weight).t(), operands.dgrad_weight)
            dx = _product(_rounded(error, operands.dgrad_error), w, operands.dgrad_sum)
        if ctx.needs_input_grad[1]:
            a = _rounded(x.t(), operands.wgrad_input)
            dw = _product(_rounded(error.t(), operands.wgrad_error), a, operands.wgrad_sum)
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
        return _matmul(
            _rounded(a, operands.forward_input),
            _rounded(b.mT, operands.forward_weight).mT,
            operands.forward_sum,
        )

    @staticmethod
    def backward(ctx: Any, *errors: Any) -> Any:
        a, b = ctx.saved_tensors
        operands: Operands = ctx.operands
        (error,) = errors
        da = db = None
        if ctx.needs_input_grad[0]:
            da = _matmul(
                _rounded(error, operands.dgrad_error),
                _rounded(b, operands.dgrad_weight).mT,
                operands.dgrad_sum,
            )
            da = da.sum_to_size(a.shape)
        if ctx.needs_input_grad[1]:
            db = _matmul(
                _rounded(a.mT, operands.wgrad_input),
                _rounded(error.mT, operands.wgrad_error).mT,
                operands.wgrad_sum,
            )
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
        a = _over_channels(x, operands.forward_input, geometry.groups)
        w = _kernel(weight, operands.forward_weight, geometry, forward=True)
        if operands.forward_sum is None:
            return torch.convolution(a, w, bias, *geometry)
        if geometry.transposed:
            y = gradient_of_input(a, w, _size(x, weight, geometry), geometry, operands.forward_sum)
        else:
            y = convolve(a, w, geometry, operands.forward_sum)
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
            e = _over_channels(error, operands.dgrad_error, geometry.groups)
            w = _kernel(weight, operands.dgrad_weight, geometry, forward=False)
            if operands.dgrad_sum is None:
                dx = gradients(e, x, w, None, *geometry, [True, False, False])[0]
            elif geometry.transposed:
                dx = convolve(e, w, geometry, operands.dgrad_sum, x.shape[2:])
            else:
                dx = gradient_of_input(e, w, x.shape[2:], geometry, operands.dgrad_sum)
        if ctx.needs_input_grad[1]:
            e, a = _over_pixels(error, operands.wgrad_error), _over_pixels(x, operands.wgrad_input)
            if operands.wgrad_sum is None:
                dw = gradients(e, a, weight, None, *geometry, [False, True, False])[1]
            else:
                pair = (a, e) if geometry.transposed else (e, a)
                dw = gradient_of_weight(*pair, weight.shape[2:], geometry, operands.wgrad_sum)
        if ctx.needs_input_grad[2]:
            db = error.sum([d for d in range(error.ndim) if d != 1])
        return dx, dw, db, None, None


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


def _over_channels(x: Tensor, rule: Rule | None, groups: int) -> Tensor:
    """x of shape (B, C, *S) rounded as (B·S·groups, C/groups)."""
    batch, channels = x.shape[:2]
    return _arranged(x, rule, (batch, channels, -1), (0, 2, 1), (-1, channels // groups))


def _over_pixels(x: Tensor, rule: Rule | None) -> Tensor:
    """x of shape (B, C, *S) rounded as (C, B·S)."""
    batch, channels = x.shape[:2]
    return _arranged(x, rule, (batch, channels, -1), (1, 0, 2), (channels, -1))


def _kernel(weight: Tensor, rule: Rule | None, geometry: Geometry, forward: bool) -> Tensor:
    """weight of shape (A, I, *k) rounded as (k, A, I) where the sum runs over I, else as (k, G·I,
    A/G).
    """
    a, i = weight.shape[:2]
    weight = unviewed(weight)
    if forward != geometry.transposed:
        return _arranged(weight, rule, (a, i, -1), (2, 0, 1), (-1, a, i))
    groups = geometry.groups
    return _arranged(
        weight, rule, (groups, a // groups, i, -1), (3, 0, 2, 1), (-1, groups * i, a // groups)
    )


def _arranged(
    x: Tensor,
    rule: Rule | None,
    shape: tuple[int, ...],
    order: tuple[int, ...],
    matrix: tuple[int, ...],
) -> Tensor:
    """x rounded in another arrangement: reshaped, its axes in another order, reshaped again; and
    back.
    """
    if rule is None or not x.numel():
        return x
    turned = x.reshape(shape).permute(order)
    back = sorted(range(len(order)), key=order.__getitem__)
    return (
        _rounded(turned.reshape(matrix), rule).reshape(turned.shape).permute(back).reshape(x.shape)
    )
