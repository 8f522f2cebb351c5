"""Layers of PyTorch that are computed at once, to the numbers of the interception.

To intercept each tensor attribute that the forwards of products read costs more than they do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from .._compat import without_interception
from .attention import multi_head_attention
from .frames import Frame
from .multiply import multiply_transposed
from .names import all_dense


def _linear(frame: Frame, module: nn.Linear, input: Tensor) -> Tensor:
    weight, bias = module.weight, module.bias  # intercepted, where they are computed
    with without_interception():
        if all_dense((input, weight)):
            return multiply_transposed(frame, input, weight, bias)
    return F.linear(input, weight, bias)


def _attention(
    frame: Frame,
    module: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    with without_interception():
        dense = all_dense((query, key, value))
    if not dense:
        return nn.MultiheadAttention.forward(
            module,
            query,
            key,
            value,
            key_padding_mask,
            need_weights,
            attn_mask,
            average_attn_weights,
            is_causal,
        )
    weights = (module.in_proj_weight, module.out_proj.weight, module.out_proj.bias)
    with without_interception():
        turned = module.batch_first and query.ndim == 3
        if turned:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        y, p = multi_head_attention(
            frame,
            multi_head_attention,
            query,
            key,
            value,
            module.embed_dim,
            module.num_heads,
            weights[0],
            module.in_proj_bias,
            module.bias_k,
            module.bias_v,
            module.add_zero_attn,
            module.dropout,
            *weights[1:],
            training=module.training,
            key_padding_mask=key_padding_mask,
            need_weights=need_weights,
            attn_mask=attn_mask,
            use_separate_proj_weight=weights[0] is None,
            q_proj_weight=module.q_proj_weight,
            k_proj_weight=module.k_proj_weight,
            v_proj_weight=module.v_proj_weight,
            average_attn_weights=average_attn_weights,
            is_causal=is_causal,
        )
        return (y.transpose(0, 1) if turned else y), p


PLAIN_LAYERS = frozenset(
    f"torch.nn.modules.{name}"
    for name in (
        *("activation", "batchnorm", "channelshuffle", "dropout", "flatten", "instancenorm"),
        *("normalization", "padding", "pixelshuffle", "pooling", "sparse", "upsampling"),
    )
)
"""Where the layers are defined that multiply no matrices; but for attention, which does."""


def is_plain(module: nn.Module) -> bool:
    """Whether a module is one of PyTorch's own layers that multiply no matrices."""
    kind: Any = type(module)
    return kind.__module__ in PLAIN_LAYERS and kind is not nn.MultiheadAttention


DIRECT: dict[Any, Callable[..., Any]] = {
    nn.Linear.forward: _linear,
    nn.MultiheadAttention.forward: _attention,
}
"""By the forward of a kind: called as (frame, module, *inputs)."""
