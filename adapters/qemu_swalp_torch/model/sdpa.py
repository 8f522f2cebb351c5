"""`F.scaled_dot_product_attention` with the operands of its two products rounded, where a module
calls it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .attention import check_not_nested, weighted

CALLERS = frozenset(("scaled_dot_product_attention", "ALL_ATTENTION_FUNCTIONS"))
"""Names by which code calls the function: its own, and the table by which the models of
`transformers` do.
"""


def calls_attention(kind: type[nn.Module]) -> bool:
    """Whether the code of the forward of a kind of module, not that of what it calls, names the
    function.
    """
    code = getattr(inspect.unwrap(kind.forward), "__code__", None)
    return code is not None and not CALLERS.isdisjoint(code.co_names)


def attention_within(module: nn.Module, rules: Any, *inputs: Any, **options: Any) -> Any:
    """The module's own forward, but with rounded products in each `F.scaled_dot_product_attention`
    that it calls.

    For `register_gemms(kind, attention_within)`, where such calls are not in the code of the
    forward but in what it calls. RuntimeError where it makes none.
    """
    calls = AttentionCalls(rules)
    with calls:
        result = type(module).forward(module, *inputs, **options)
    if not calls.count:
        raise RuntimeError(
            f"{rules.site.name!r} ({type(module).__qualname__}) did not call"
            " F.scaled_dot_product_attention, so that its attention was not rounded; have it call"
            ' that (transformers: attn_implementation="sdpa"), or exclude the module'
        )
    return result


class AttentionCalls(TorchFunctionMode):
    """Within it the function is ours, by the rules of one call of a module; of nested ones the
    innermost counts.
    """

    def __init__(self, rules: Any) -> None:
        super().__init__()
        self.rules, self.count = rules, 0

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, inputs: Any = (), options: Any = None
    ) -> Any:
        if function is not F.scaled_dot_product_attention:
            if function is Tensor.unflatten:  # torch.compile cannot trace the method within a mode
                function = torch.unflatten
            return function(*inputs, **(options or {}))
        part = f".{self.count}" if self.count else ""
        self.count += 1
        return attention(self.rules, part, *inputs, **(options or {}))


def attention(
    rules: Any,
    part: str,
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
    """`F.scaled_dot_product_attention`. Heads of keys and values that serve several of the query
    are rounded once.
    """
    check_not_nested(query)
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
        return weighted(query, key, value, mask, dropout_p, scale, rules, part)[0]
    heads = key.shape[-3]
    if mask is not None and mask.ndim > 2:
        mask = torch.unflatten(mask, -3, (heads, -1)) if mask.shape[-3] > 1 else mask.unsqueeze(-3)
    grouped = torch.unflatten(query, -3, (heads, -1))
    key, value = key.unsqueeze(-3), value.unsqueeze(-3)
    return weighted(grouped, key, value, mask, dropout_p, scale, rules, part)[0].flatten(-4, -3)
