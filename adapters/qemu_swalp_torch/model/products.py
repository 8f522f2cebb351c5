"""The functions of PyTorch that multiply matrices, and what computes each in its place."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor

from . import convolutions
from .attention import multi_head_attention, scaled_dot_product_attention
from .contraction import bilinear, einsum, tensordot
from .frames import Frame, is_weight
from .multiply import multiply, multiply_transposed, plus
from .names import OPERATORS, all_dense, arguments_for, callables, keywords_of, worded
from .recurrent import CELLS, LAYERS, cell, layer

Handler = Callable[..., Any]


def _linear(
    frame: Frame, function: Handler, input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    if weight.ndim == 1:
        return plus(_matmul(frame, function, input, weight), bias)
    return multiply_transposed(frame, input, weight, bias)


def _matmul(frame: Frame, function: Handler, input: Tensor, other: Tensor) -> Tensor:
    """As `torch.matmul`, vectors included."""
    a, b = input, other
    weights = (is_weight(a), is_weight(b))
    y = multiply(
        frame,
        a[None] if a.ndim == 1 else a,
        b[:, None] if b.ndim == 1 else b,
        weights=weights,
    )
    if a.ndim == 1:
        y = y.squeeze(-2)
    return y.squeeze(-1) if b.ndim == 1 else y


def _rmatmul(frame: Frame, function: Handler, b: Tensor, a: Tensor) -> Tensor:
    return _matmul(frame, function, a, b)


def _inner(frame: Frame, function: Handler, input: Tensor, other: Tensor) -> Tensor:
    if not input.ndim or not other.ndim:
        return input * other
    return tensordot(frame, function, input, other, ([-1], [-1]))


def _multi_dot(frame: Frame, function: Handler, *matrices: Any) -> Tensor:
    """From left to right, whatever the shapes."""
    tensors: list[Tensor] = list(matrices[0]) if len(matrices) == 1 else list(matrices)
    y = tensors[0]
    for x in tensors[1:]:
        y = _matmul(frame, function, y, x)
    return y


def _added(
    frame: Frame,
    function: Handler,
    input: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
    summed: bool = False,
) -> Tensor:
    """β·input + α·a·b, as `torch.addmm`, `baddbmm`, `addmv`; summed over the batch: `addbmm`."""
    if b.ndim == 1:
        y = multiply(frame, a, b[:, None], weights=(is_weight(a), is_weight(b)))[..., 0]
    elif (beta, alpha) == (1, 1) and input.ndim == 1 and not summed:
        return multiply(frame, a, b, input)
    else:
        y = multiply(frame, a, b)
    ops = frame.ops
    y = ops.sum(y, 0) if summed else y
    y = y if alpha == 1 else ops.mul(y, alpha)
    return y if beta == 0 else ops.add(input if beta == 1 else ops.mul(input, beta), y)


_addbmm: Handler = partial(_added, summed=True)


def _grouped(
    frame: Frame,
    function: Handler,
    mat_a: Tensor,
    mat_b: Tensor,
    offs: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """As `F.grouped_mm`: a product for each group of rows of a, of columns of b, or of terms of
    the sum, whose ends are `offs`.
    """
    weights = (is_weight(mat_a), is_weight(mat_b))
    if offs is None:
        return multiply(frame, mat_a, mat_b, bias, weights=weights)
    ends: list[int] = offs.tolist()
    spans = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    if mat_a.ndim == 2 and mat_b.ndim == 3:
        pairs = [(mat_a[s], matrix) for s, matrix in zip(spans, mat_b, strict=True)]
    elif mat_a.ndim == 3:
        pairs = [(matrix, mat_b[:, s]) for s, matrix in zip(spans, mat_a, strict=True)]
    else:
        pairs = [(mat_a[:, s], mat_b[s]) for s in spans]
    parts = [multiply(frame, a, b, weights=weights) for a, b in pairs]
    if mat_a.ndim == mat_b.ndim:
        y = torch.stack(parts)
    elif mat_a.ndim == 3:
        y = torch.cat(parts, 1)
    else:
        y = torch.cat([*parts, mat_a.new_zeros(mat_a.shape[0] - ends[-1], mat_b.shape[-1])])
    y = plus(y, bias)
    return y if out_dtype is None else y.to(out_dtype)


def _written(name: str, handler: Handler) -> Handler:
    """The same, with the `out` and all keywords that functions of PyTorch have; of dense real
    tensors alone, other products are PyTorch's, and told as not covered.
    """
    known = keywords_of(handler) | {"out"}

    def handle(frame: Frame, function: Handler, *inputs: Any, **options: Any) -> Any:
        if options:
            placed = arguments_for(known, name, inputs, options)
            if placed is None:
                return function(*inputs, **options)
            inputs, options = placed
        if not all_dense((*inputs, *options.values())):
            return function(*inputs, **options)
        out = options.pop("out", None)
        result = handler(frame, function, *inputs, **options)
        return result if out is None else out.resize_(result.shape).copy_(result)

    return handle


def _in_place(handler: Handler) -> Handler:
    @wraps(handler)
    def handle(frame: Frame, function: Handler, input: Tensor, *rest: Any, **options: Any) -> Any:
        return input.copy_(handler(frame, function, input, *rest, **options))

    return handle


_HANDLERS: dict[str, Handler] = {
    "linear": _linear,
    **dict.fromkeys(("matmul", "__matmul__", "mm", "bmm", "mv", "dot", "vdot"), _matmul),
    "linalg_matmul": _matmul,
    "__rmatmul__": _rmatmul,
    "inner": _inner,
    **dict.fromkeys(("chain_matmul", "linalg_multi_dot"), _multi_dot),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), _added),
    "addbmm": _addbmm,
    **dict.fromkeys(("addmm_", "baddbmm_", "addmv_"), _in_place(_added)),
    "addbmm_": _in_place(_addbmm),
    "einsum": einsum,
    "tensordot": tensordot,
    "bilinear": bilinear,
    "convolution": convolutions.general,
    **{f"conv{n}d": convolutions.spatial(n) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": convolutions.spatial_transposed(n) for n in (1, 2, 3)},
    **dict.fromkeys(("grouped_mm", "_grouped_mm", "grouped_mm_fallback"), _grouped),
    "scaled_dot_product_attention": scaled_dot_product_attention,
    "multi_head_attention_forward": multi_head_attention,
    **dict.fromkeys(LAYERS, layer),
    **dict.fromkeys(CELLS, cell),
}

BY_NAME = {
    name: worded(_written(name, handler)) if name in OPERATORS else _written(name, handler)
    for name, handler in _HANDLERS.items()
}
"""What computes each operation: called as (frame, function, *inputs, **options)."""

PRODUCTS = {function: handler for name, handler in BY_NAME.items() for function in callables(name)}
"""The same by function, method and Python operator."""
