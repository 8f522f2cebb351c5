"""Interception of the functions that a model calls, whoever's code calls them.

While a module is called, a `TorchFunctionMode` sees each function, method and operator of PyTorch
that is applied, in any code, registered or not. Products are computed by `products`, elementwise
operations by `arithmetic`; all else is passed on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .._compat import constant, is_operator, lost_weight, never_traced_first, show_to_modes
from . import arithmetic, products
from .frames import FRAMES, Frame, note_weights
from .names import known_operator


class Interception(TorchFunctionMode):
    """Within it products and elementwise operations are rounded by the rules of the innermost
    call.
    """

    @never_traced_first
    def __torch_function__(
        self, function: Callable[..., Any], types: Any, inputs: Any = (), options: Any = None
    ) -> Any:
        return call(function, inputs, options or {})


def call(function: Callable[..., Any], inputs: Sequence[Any], options: dict[str, Any]) -> Any:
    """What a function gives under the rules of the innermost call."""
    frame = FRAMES.stack[-1]
    if function is F.l1_loss and not torch.compiler.is_compiling():
        options = {**options, "weight": lost_weight()}
    if frame.products is not None or frame.functions is not None:
        if is_operator(function) or _is_traced_python(function):
            handler = _by_name(frame, function)
        else:
            handler = products.PRODUCTS.get(function)
            if handler is None and frame.functions is not None:
                handler = arithmetic.ARITHMETIC.get(function)
        if handler is not None:
            result = handler(frame, function, *inputs, **options)
            remember(frame, inputs, result)
            return result
    if function is Tensor.unflatten:  # torch.compile cannot trace the method within a mode
        function = torch.unflatten
    result = function(*inputs, **options)
    remember(frame, inputs, result)
    return result


@constant
def show_functions() -> None:
    """Before torch.compile traces a model: have it show all that is computed here."""
    show_to_modes(
        function
        for function in (*products.PRODUCTS, *arithmetic.ARITHMETIC)
        if isinstance(function, FunctionType)
    )


def _is_traced_python(function: Callable[..., Any]) -> bool:
    """Whether torch.compile traces a function written in Python, which it does not find in a table
    by its identity.
    """
    return isinstance(function, FunctionType) and torch.compiler.is_compiling()


def _by_name(frame: Frame, function: Callable[..., Any]) -> Callable[..., Any] | None:
    name = (known_operator(function) or "") if is_operator(function) else function.__name__
    handler = products.BY_NAME.get(name)
    if handler is None and frame.functions is not None:
        handler = arithmetic.BY_NAME.get(name)
    return handler


def remember(frame: Frame, inputs: Sequence[Any], result: Any) -> None:
    """Take note of weights that a function made of others."""
    if frame.products is not None:
        note_weights(inputs, result)
