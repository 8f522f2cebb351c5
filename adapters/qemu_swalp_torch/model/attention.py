"""Attention with the operands of its products rounded: q·kᵀ and p·v, and in multi-head attention
the projections.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .frames import Frame
from .multiply import multiply, multiply_transposed


def scaled_dot_product_attention(
    frame: Frame,
    function: Callable[..., Any],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """As `F.scaled_dot_product_attention`. Heads of keys and values that serve several of the query
    are rounded once.
    """
    part = ""
    if frame.products is not None:
        part = f".{frame.products.attentions}" if frame.products.attentions else ""
        frame.products.attentions += 1
    mask = attn_mask
    if is_causal:
        if mask is not None:
            raise RuntimeError("attn_mask must be None where is_causal=True, as in PyTorch")
        mask = torch.ones(
            query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device
        ).tril()
    if mask is not None and mask.dtype == torch.bool:
        mask = query.new_zeros(mask.shape).masked_fill(~mask, -math.inf)
    if not enable_gqa:
        return _weighted(frame, query, key, value, mask, dropout_p, scale, part)[0]
    heads = key.shape[-3]
    if mask is not None and mask.ndim > 2:
        mask = torch.unflatten(mask, -3, (heads, -1)) if mask.shape[-3] > 1 else mask.unsqueeze(-3)
    grouped = torch.unflatten(query, -3, (heads, -1))
    key, value = key.unsqueeze(-3), value.unsqueeze(-3)
    return _weighted(frame, grouped, key, value, mask, dropout_p, scale, part)[0].flatten(-4, -3)


def multi_head_attention(
    frame: Frame,
    function: Callable[..., Any],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """As `F.multi_head_attention_forward`: projections "q", "k" and "v", then "scores" q·kᵀ and
    "values" p·v, then the projection "out". Operands are rounded with the batch first.
    """
    batched = query.ndim == 3
    if not batched:
        query, key, value = query[:, None], key[:, None], value[:, None]
        key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
    query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    weights: Any = (q_proj_weight, k_proj_weight, v_proj_weight)
    if not use_separate_proj_weight and in_proj_weight is not None:
        weights = in_proj_weight.chunk(3)
        frame.derived += list(weights)
    biases: Any = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    q, k, v = (
        multiply_transposed(frame, x, weight, bias, f".{part}")
        for part, x, weight, bias in zip("qkv", (query, key, value), weights, biases, strict=True)
    )
    mask = _mask(num_heads, query, key, key_padding_mask, attn_mask, is_causal)
    rows = 0
    if bias_k is not None and bias_v is not None:
        k, v = (
            torch.cat([x, extra.expand(x.shape[0], 1, -1)], 1)
            for x, extra in ((k, bias_k), (v, bias_v))
        )
        rows += 1
    q, k, v = (_heads(x, num_heads) for x in (q, k, v))
    k, v = (
        computed if static is None else torch.unflatten(static, 0, (-1, num_heads))
        for computed, static in ((k, static_k), (v, static_v))
    )
    if add_zero_attn:
        k, v = (torch.cat([x, x.new_zeros(*x.shape[:2], 1, x.shape[-1])], 2) for x in (k, v))
        rows += 1
    if rows and mask is not None:
        mask = F.pad(mask, (0, rows))
    values, p = _weighted(frame, q, k, v, mask, dropout_p if training else 0.0, None, "")
    joined = values.transpose(1, 2).flatten(2)
    output = multiply_transposed(frame, joined, out_proj_weight, out_proj_bias, ".out")
    shown = None
    if need_weights:
        shown = frame.ops.mean(p, 1) if average_attn_weights else p
    if not batched:
        return output[0], None if shown is None else shown[0]
    return output.transpose(0, 1), shown


def _weighted(
    frame: Frame,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    dropout: float,
    scale: float | None,
    part: str,
) -> tuple[Tensor, Tensor]:
    """p·v and p = softmax(scale·q·kᵀ + mask), by products "scores" and "values".

    q of shape (…, L, E), k (…, S, E), v (…, S, D), mask as broadcasts to (…, L, S); scale 1/√E by
    default. Rows that the mask hides whole give zeros, as in `F.scaled_dot_product_attention`.
    """
    ops = frame.ops
    q = ops.mul(q, math.sqrt(1.0 / q.shape[-1]) if scale is None else scale)
    neither = (False, False)
    scores = multiply(frame, q, k.mT, part=".scores" + part, weights=neither)
    p = ops.softmax(scores, -1) if mask is None else ops.safe_softmax(ops.add(scores, mask))
    p = ops.dropout(p, dropout) if dropout else p
    return multiply(frame, p, v, part=".values" + part, weights=neither), p


def _heads(x: Tensor, heads: int) -> Tensor:
    """(batch, length, heads·d) as (batch, heads, length, d)."""
    return torch.unflatten(x, -1, (heads, -1)).transpose(1, 2)


def _mask(
    heads: int,
    query: Tensor,
    key: Tensor,
    padding: Tensor | None,
    mask: Tensor | None,
    is_causal: bool,
) -> Tensor | None:
    """What is added to the scores, of a shape that broadcasts to (batch, heads, L, S)."""
    if is_causal and mask is None:
        raise RuntimeError("is_causal=True is a hint about attn_mask, as in PyTorch; pass the mask")
    additive = None
    if mask is not None:
        additive = _additive(mask, query)
        if additive.ndim == 3:
            additive = torch.unflatten(additive, 0, (-1, heads))
    if padding is not None:
        hidden = _additive(padding, query)[:, None, None, :]
        additive = hidden if additive is None else additive + hidden
    return additive


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """-infinity where a Boolean mask holds; a floating one as it is."""
    if mask.is_floating_point():
        return mask
    return like.new_zeros(mask.shape).masked_fill(mask, -math.inf)
