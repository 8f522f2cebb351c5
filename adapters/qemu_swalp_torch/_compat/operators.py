"""Functions and operators, and the contexts that see them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator, OpOverload, OpOverloadPacket
from torch.utils._python_dispatch import TorchDispatchMode


def is_operator(function: Callable[..., Any]) -> bool:
    """Whether a function is of `torch.ops`."""
    return type(function) in (OpOverload, OpOverloadPacket)


def is_higher_order(function: Callable[..., Any]) -> bool:
    """Whether an operator takes functions, as that of `flex_attention`."""
    return isinstance(function, HigherOrderOperator)


def operator_name(function: Callable[..., Any]) -> tuple[str, str] | None:
    """Library and name of an operator or of an overload of it: ("aten", "mm") of
    `torch.ops.aten.mm` and of `torch.ops.aten.mm.default`; None of other functions.
    """
    if isinstance(function, OpOverload):
        function = function.overloadpacket
    if not isinstance(function, OpOverloadPacket):
        return None
    library, _, name = str(function._qualified_op_name).partition("::")
    return library, name


def overload_name(function: Callable[..., Any]) -> str:
    """Which overload of its operator it is: "reduce" of `torch.ops.aten.scatter.reduce`."""
    return str(function._overloadname) if isinstance(function, OpOverload) else "default"


def positional_arguments(name: str) -> list[list[str]]:
    """Names of the arguments that an operation of PyTorch takes by place, in each overload of it;
    a tensor whose method it is goes by "self". Empty where `torch.ops.aten` has none.
    """
    packet = getattr(torch.ops.aten, name, None)
    overloads = [] if packet is None else packet.overloads()
    schemas = [getattr(packet, overload)._schema for overload in overloads]
    return [[x.name for x in schema.arguments if not x.kwarg_only] for schema in schemas]


DispatchMode: TypeAlias = TorchDispatchMode
"""Base class of contexts that see the operators which PyTorch dispatches."""

without_interception = torch._C.DisableTorchFunction
"""A context in which neither tensor subclasses nor modes see the functions that are called."""


def lost_weight() -> Any:
    """The `weight` of the call of `F.l1_loss` that a `TorchFunctionMode` is handling, which
    PyTorch 2.13 does not pass on to modes.
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not torch.nn.functional.l1_loss.__code__:
        frame = frame.f_back
    return None if frame is None else frame.f_locals["weight"]


def native_functions() -> tuple[Any, ...]:
    """Where the functions are that those of `torch.nn.functional` and `torch.linalg` call."""
    return torch._C._nn, torch._C._linalg, torch._C._VariableFunctions  # type: ignore[attr-defined]


def safe_softmax(scores: Tensor) -> Tensor:
    """Softmax over the last axis; rows of -infinity alone give zeros."""
    result: Tensor = torch.ops.aten._safe_softmax(scores, -1)
    return result
