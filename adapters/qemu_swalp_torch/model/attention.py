"""Attention with the operands of its products rounded: two of activations, in
`nn.MultiheadAttention` six.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ..ops.matmul import linear, matmul


def attend(
    module: nn.MultiheadAttention,
    rules: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The module's forward: projections q, k, v, then "scores" q·kᵀ and "values" p·v, then the
    projection "out".

    Arguments, shapes and results are the module's; TypeError for nested tensors.
    """
    check_not_nested(query)
    batched = query.ndim == 3
    if not batched:
        query, key, value = query[None], key[None], value[None]
        key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
    elif not module.batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    q, k, v = (
        _heads(module, linear(x, weight, bias, rules.of(f".{part}")))
        for part, x, weight, bias in zip(
            "qkv", (query, key, value), *_projections(module), strict=True
        )
    )
    mask = _mask(module, query, key, key_padding_mask, attn_mask, is_causal)
    values, p = weighted(q, k, v, mask, module.dropout if module.training else 0.0, None, rules)
    joined = values.transpose(1, 2).flatten(2)
    output = linear(joined, module.out_proj.weight, module.out_proj.bias, rules.of(".out"))
    weights = None
    if need_weights:
        weights = p.mean(1) if average_attn_weights else p
    if not batched:
        return output[0], None if weights is None else weights[0]
    return output if module.batch_first else output.transpose(0, 1), weights


def weighted(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    dropout: float,
    scale: float | None,
    rules: Any,
    part: str = "",
) -> tuple[Tensor, Tensor]:
    """p·v and p = softmax(scale·q·kᵀ + mask), by products "scores" and "values" of those rules.

    q of shape (…, L, E), k (…, S, E), v (…, S, D), mask as broadcasts to (…, L, S); scale 1/√E by
    default. Rows that the mask hides whole give zeros, as in `F.scaled_dot_product_attention`. The
    softmax is `rules.softmax`.
    """
    q = q * (math.sqrt(1.0 / q.shape[-1]) if scale is None else scale)
    scores = matmul(q, k.mT, rules.of_activations(".scores" + part))
    p = rules.softmax(scores if mask is None else scores + mask)
    p = F.dropout(p, dropout) if dropout else p
    return matmul(p, v, rules.of_activations(".values" + part)), p


def check_not_nested(query: Tensor) -> None:
    """TypeError for a nested tensor."""
    if query.is_nested:
        raise TypeError(
            "attention whose operands are rounded takes no nested tensors; make"
            " nn.TransformerEncoder with enable_nested_tensor=False"
        )


def _projections(module: nn.MultiheadAttention) -> tuple[Any, Any]:
    """The weights and the biases of the projections q, k and v."""
    weights: Any = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    if module.in_proj_weight is not None:
        weights = module.in_proj_weight.chunk(3)
    return weights, (None,) * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)


def _heads(module: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """(batch, length, heads·d) as (batch, heads, length, d)."""
    return x.reshape(*x.shape[:-1], module.num_heads, -1).transpose(1, 2)


def _mask(
    module: nn.MultiheadAttention,
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
            additive = additive.reshape(-1, module.num_heads, *additive.shape[1:])
    if padding is not None:
        hidden = _additive(padding, query)[:, None, None, :]
        additive = hidden if additive is None else additive + hidden
    return additive


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """-infinity where a Boolean mask holds; a floating one as it is."""
    if mask.is_floating_point():
        return mask
    return like.new_zeros(mask.shape).masked_fill(mask, -math.inf)
