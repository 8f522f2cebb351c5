"""The functions, methods and operators by which PyTorch offers an operation."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket
from torch.nn import functional as F

from .._compat import native_functions

PLACES: tuple[Any, ...] = (
    torch,
    torch.functional,
    F,
    Tensor,
    torch.linalg,
    torch.special,
    *native_functions(),
    operator,
)
"""Where functions are looked for; `native_functions` has those that Python wrappers call."""

LIBRARIES = ("aten", "transformers")
"""Libraries whose operators go by the names of PyTorch's functions."""


def callables(name: str) -> Iterator[Callable[..., Any]]:
    """All in Python that computes the operation of that name, as `torch.mm` and `Tensor.mm`."""
    for place in PLACES:
        function = getattr(place, name, None)
        if callable(function):
            yield function


def operator_name(function: Callable[..., Any]) -> str | None:
    """The name of an operator, as "mm" of `torch.ops.aten.mm` and of its overloads; None of
    others.
    """
    if isinstance(function, OpOverload):
        function = function.overloadpacket
    if not isinstance(function, OpOverloadPacket):
        return None
    library, _, name = str(function._qualified_op_name).partition("::")
    return name if library in LIBRARIES else None
