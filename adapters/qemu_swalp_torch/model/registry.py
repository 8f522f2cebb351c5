"""Kinds of modules whose computation users have told of, by their forwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

Forward = Callable[..., Any]

FORWARDS: dict[Any, Forward] = {}
"""What computes the products of a kind: called as (module, rules, *inputs)."""

FUNCTIONS: dict[Any, Forward] = {}
"""What computes its elementwise operations: called as (module, functions, *inputs)."""


def register(table: dict[Any, Forward], what: str, kind: type[nn.Module], forward: Forward) -> None:
    """TypeError if `kind` is not a module type or `forward` not callable; ValueError if the kind is
    known with another function.
    """
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)) or not callable(forward):
        raise TypeError(
            f"a type of torch.nn.Module and a function are registered, got {kind!r} and {forward!r}"
        )
    if table.get(kind.forward, forward) is not forward:
        raise ValueError(f"the {what} of {kind.__qualname__}.forward are known already")
    table[kind.forward] = forward
