"""Attention as its two products and a softmax."""

from __future__ import annotations

from typing import Any

from keras import ops
from keras.backend import result_type, standardize_dtype


def attend(
    query: Any,
    key: Any,
    value: Any,
    bias: Any = None,
    mask: Any = None,
    scale: float | None = None,
    is_causal: bool = False,
    flash_attention: bool | None = None,
    attn_logits_soft_cap: float | None = None,
) -> Any:
    """`keras.ops.dot_product_attention` of (batch, length, heads, width), by calls of `keras.ops`:
    q·kᵀ, a softmax in at least float32, p·v.

    Raises
    ------
    ValueError: if there is a soft cap, which Keras's backends ignore.
    """
    if attn_logits_soft_cap is not None:
        raise ValueError(
            "attn_logits_soft_cap is not emulated; write the attention with keras.ops.einsum, got"
            f" {attn_logits_soft_cap!r}"
        )
    heads, of_keys = query.shape[2], key.shape[2]
    if heads != of_keys:
        key = ops.repeat(key, heads // of_keys, axis=2)
        value = ops.repeat(value, heads // of_keys, axis=2)
    dtype = query.dtype
    scores = ops.einsum("btnh,bsnh->bnts", query, key)
    scores = ops.cast(scores, result_type(standardize_dtype(scores.dtype), "float32"))
    scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + ops.cast(bias, scores.dtype)
    if is_causal:
        length, others = ops.shape(scores)[-2:]
        causal = ops.arange(length)[:, None] >= ops.arange(others)[None]
        mask = causal if mask is None else ops.logical_and(ops.cast(mask, "bool"), causal)
    if mask is not None:
        scores = ops.where(ops.cast(mask, "bool"), scores, ops.cast(_HIDDEN, scores.dtype))
    weights = ops.cast(ops.softmax(scores, axis=-1), dtype)
    return ops.einsum("bnts,bsnh->btnh", weights, value)


_HIDDEN = -0.7 * 3.38953e38
"""Score of a hidden position, as in Keras: rows that see nothing weigh all positions alike."""
