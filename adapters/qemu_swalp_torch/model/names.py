"""The functions, methods and operators by which PyTorch offers an operation."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .._compat import constant, native_functions, operator_name, positional_arguments

PLACES: tuple[Any, ...] = (
    torch,
    torch.functional,
    F,
    Tensor,
    torch.special,
    *native_functions(),
    operator,
)
"""Where functions are looked for; `native_functions` has those that Python wrappers call, and those
of `torch.linalg` by names of their own: its `norm` is another than `torch.norm`.
"""

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


NUMPY_WORDS = {"axis": "dim", "keepdims": "keepdim", "x1": "input", "x2": "other"}
"""Keywords of NumPy that PyTorch's functions take for their own."""


def keywords_of(handler: Callable[..., Any]) -> frozenset[str]:
    """The keywords that a handler takes; those of options at its end do not count."""
    parameters = inspect.signature(handler).parameters.values()
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return frozenset(x.name for x in parameters if x.kind not in variable)


def arguments_for(
    known: frozenset[str], name: str, inputs: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The arguments of a call of the operation, for a handler of these keywords: others go by their
    place in PyTorch's schema, as `mat2=` of `torch.mm`. None where they have no place.
    """
    options = {NUMPY_WORDS.get(key, key): value for key, value in options.items()}
    unknown = options.keys() - known
    if not unknown:
        return inputs, options
    for order in _orders_of(name):
        rest = order[len(inputs) :]
        count = next((i for i, key in enumerate(rest) if key not in options), len(rest))
        placed = rest[:count]
        if unknown <= set(placed):
            return (*inputs, *(options.pop(key) for key in placed)), options
    return None


@constant
@lru_cache(maxsize=1024)
def _orders_of(name: str) -> tuple[tuple[str, ...], ...]:
    """The positional arguments of an operation of PyTorch, in each of its overloads."""
    return tuple(
        tuple("input" if argument == "self" else argument for argument in order)
        for order in positional_arguments(name)
    )


def all_dense(values: Iterable[Any]) -> bool:
    """Whether the tensors among the values are neither sparse, nested nor complex."""
    for x in values:  # a generator would take twice as long
        if isinstance(x, Tensor) and (
            x.layout is not torch.strided or x.is_complex() or x.is_nested
        ):
            return False
    return True


def worded(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The same for what Python's operators call: they take a TypeError for an operand that they do
    not know, and forget its words, so it becomes a ValueError.
    """

    def handle(*inputs: Any, **options: Any) -> Any:
        try:
            return handler(*inputs, **options)
        except TypeError as error:
            raise ValueError(str(error)) from error

    return handle


OPERATORS = frozenset(
    (
        *("add", "sub", "rsub", "mul", "div", "true_divide", "pow", "matmul", "add_", "sub_"),
        *("mul_", "div_", "pow_", "__rsub__", "__rdiv__", "__rtruediv__", "__rpow__"),
        *("__radd__", "__rmul__", "__matmul__", "__rmatmul__", "__pow__"),
    )
)
"""Operations that Python's operators call."""
