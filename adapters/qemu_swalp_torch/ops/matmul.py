"""Matrix products with operands and sums rounded, each by itself: the forward product and the two
of the backward, and those of the derivatives of these (`three`, `derivatives`).

Every operand is handed to its quantizer with the axis that is summed over last, so that blocks with
axis=-1 lie along the sum: the same input in blocks along its channels forward, along the batch in
the gradient of the weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._compat import without_interception
from .accumulate import Geometry
from .derivatives import multiplied
from .operands import Operands
from .three import OfConvolution, OfMatrices, OfRows


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, operands: Operands) -> Tensor:
    """x·weightᵀ + bias; x of shape (…, K), weight (N, K).

    Operands as their quantizers see them, M the product of the leading axes of x: (M, K) and (N, K)
    forward, error (M, N) and weight (K, N) in dgrad, error (N, M) and input (K, M) in wgrad.
    """
    with without_interception():
        rows, weight, bias = autocast(x.reshape(-1, x.shape[-1]), weight, bias)
        y = multiplied(rows, weight, bias, OfRows(operands))
        return y.reshape(*x.shape[:-1], weight.shape[0])


def matmul(a: Tensor, b: Tensor, operands: Operands) -> Tensor:
    """a·b, batched and broadcast as in `torch.matmul`; a of shape (…, M, K), b (…, K, N).

    a is the input; b, here an activation too, stands where a layer has its weight. As their
    quantizers see them: a (…, M, K) and b (…, N, K) forward; error (…, M, N) and b (…, K, N) in
    dgrad; error (…, N, M) and a (…, K, M) in wgrad, the gradient of b.
    """
    with without_interception():
        a, b, _ = autocast(a, b.view_as(b) if a is b else b, None)
        return multiplied(a, b, None, OfMatrices(operands))


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
        return multiplied(x, weight, bias, OfConvolution(operands, geometry))


def autocast(
    x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The operands in the dtype that autocast asks for, where it is on."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return x, weight, bias
    dtype = torch.get_autocast_dtype(kind)
    return x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
