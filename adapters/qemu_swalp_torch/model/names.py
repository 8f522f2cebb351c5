"""The functions, methods and operators by which PyTorch offers an operation."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .._compat import native_functions, operator_name

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


def known_operator(function: Callable[..., Any]) -> str | None:
    """The name of an operator of `LIBRARIES`, as "mm" of `torch.ops.aten.mm`; None of others."""
    library, name = operator_name(function) or ("", None)
    return name if library in LIBRARIES else None
