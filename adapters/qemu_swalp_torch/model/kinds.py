"""What can be known of a kind of module before it is called."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from torch import nn

from . import arithmetic, products
from .registry import FORWARDS, FUNCTIONS
from .selection import Matmul

OF_ACTIVATIONS = frozenset(("scaled_dot_product_attention", "ALL_ATTENTION_FUNCTIONS"))
"""Names by which code multiplies activations alone; the second is the table by which the models of
`transformers` call attention.
"""


@lru_cache(maxsize=4096)
def multiplies(kind: Any, attention: bool) -> bool:
    """Whether the code of a kind's forward names a product; of two activations only with
    `attention`.
    """
    forward = forward_of(kind)
    if forward in FORWARDS or forward in RECURRENT:
        return True
    if forward is Matmul.forward:
        return attention
    names = set(_names(kind))
    if "_conv_forward" in names or not names.isdisjoint(products.BY_NAME.keys() - OF_ACTIVATIONS):
        return True
    return attention and not names.isdisjoint(OF_ACTIVATIONS)


@lru_cache(maxsize=4096)
def computes(kind: Any) -> bool:
    """Whether the code of a kind's forward names an elementwise operation, or attention."""
    forward = forward_of(kind)
    return (
        forward in FUNCTIONS
        or forward in RECURRENT
        or forward is nn.MultiheadAttention.forward
        or not OF_ACTIVATIONS.union(arithmetic.BY_NAME).isdisjoint(_names(kind))
    )


def computes_itself(name: str, module: nn.Module) -> bool:
    """Whether a module of the user's has no others within, and computes new numbers."""
    kind: Any = type(module)
    alone = not is_known(kind) and not any(True for _ in module.children())
    return alone and (computes(kind) or multiplies(kind, True))


def is_known(kind: type[nn.Module]) -> bool:
    """Whether the forward of a kind is PyTorch's own, or that of `Matmul`."""
    if forward_of(kind) is Matmul.forward:
        return True
    return str(getattr(forward_of(kind), "__module__", "")).startswith("torch.nn.")


def forward_of(kind: type[nn.Module]) -> Callable[..., Any] | None:
    """The forward of a kind; None of scripted modules, which have none of their class."""
    return getattr(kind, "forward", None)


RECURRENT = (nn.LSTM.forward, nn.GRU.forward, nn.RNN.forward)


def _names(kind: type[nn.Module]) -> Iterator[str]:
    """What the code names, not that of what it calls; "matmul" for the operator @."""
    forward = forward_of(kind)
    code = None if forward is None else getattr(inspect.unwrap(forward), "__code__", None)
    if code is None:
        return
    yield from code.co_names
    for instruction in dis.get_instructions(code):
        if instruction.opname == "BINARY_OP" and instruction.argrepr in OPERATORS:
            yield OPERATORS[instruction.argrepr]


OPERATORS = {
    "@": "matmul",
    "@=": "matmul",
    "+": "add",
    "-": "sub",
    "*": "mul",
    "/": "div",
    "**": "pow",
}
