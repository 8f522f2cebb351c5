"""Operators of the backend's tensors, as they are while a layer is called that rounds: the
functions of Keras's backend that do the same, which are intercepted.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, wraps
from typing import Any

from .._compat import function_in_place, is_called_by_a_library, replace_operators
from ..backend import backend
from .pausing import paused
from .scope import current

FUNCTIONS = {
    "add": "numpy.add",
    "sub": "numpy.subtract",
    "mul": "numpy.multiply",
    "truediv": "numpy.true_divide",
    "pow": "numpy.power",
    "matmul": "numpy.matmul",
}
"""By the name of an operator, that of the function of Keras's backend."""

NAMES_ON_TORCH = {
    **{name: name for name in FUNCTIONS},
    "subtract": "sub",
    "multiply": "mul",
    **dict.fromkeys(("div", "divide", "true_divide"), "truediv"),
}
"""What PyTorch calls its operators; with an underscore after it, they are written in place."""

ON_TORCH = {
    **{name: (own, False) for name, own in NAMES_ON_TORCH.items()},
    **{f"{name}_": (own, False) for name, own in NAMES_ON_TORCH.items()},
    **{f"__{name}__": (own, False) for name, own in NAMES_ON_TORCH.items()},
    **{f"__r{name}__": (own, True) for name, own in NAMES_ON_TORCH.items()},
    "rsub": ("sub", True),
}
"""By the name of a function of PyTorch: that of an operator, and whether its operands are swapped.
"""


@cache
def install() -> None:
    """Put our operators in place of those of TensorFlow and JAX, once in a process."""
    names = [f"__{side}{name}__" for name in FUNCTIONS for side in ("", "r")]
    replace_operators(names, _operator)


def operator_mode() -> AbstractContextManager[Any]:
    """Within it PyTorch's operators are seen; those of the others always are."""
    return _torch_mode()() if backend() == "torch" else nullcontext()


def _operator(name: str, operator: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    plain = name.strip("_")
    swapped = plain not in FUNCTIONS
    plain = plain.removeprefix("r") if swapped else plain

    @wraps(operator)
    def applied(a: Any, b: Any) -> Any:
        # random numbers are drawn by operators, too, in functions that JAX keeps compiled
        if not _is_rounded(plain) or is_called_by_a_library():
            return operator(a, b)
        return _called(plain, operator, a, b, swapped)

    return applied


def _called(name: str, operator: Callable[[Any, Any], Any], a: Any, b: Any, swapped: bool) -> Any:
    """The function in an operator's place; the result has the dtype which that gives it."""
    function = function_in_place(FUNCTIONS[name])
    if swapped:
        return function(b, a, operator=lambda b, a: operator(a, b))
    return function(a, b, operator=operator)


def _is_rounded(operator: str) -> bool:
    """Whether the layer that is being called may round it."""
    scope = current()
    return scope is not None and (operator == "matmul" or scope.functions is not None)


@cache
def _torch_mode() -> Any:
    from torch.overrides import TorchFunctionMode

    class Operators(TorchFunctionMode):
        def __torch_function__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            name = getattr(function, "__name__", "")
            known = ON_TORCH.get(name)
            if known is None or kwargs or len(args) != 2 or not _is_rounded(known[0]):
                return function(*args, **(kwargs or {}))
            (own, swapped), (a, b) = known, args
            if not name.endswith("_") or name.endswith("__"):
                return _called(own, function, a, b, swapped)
            kept = a.clone()  # for the backward, which what is written over does not serve
            y = _called(own, getattr(operator, own), kept, kept if b is a else b, swapped)
            if y.dtype != a.dtype:
                with paused():  # it raises where PyTorch does not write such numbers
                    function(kept.clone(), b)
            return a.copy_(y)

    return Operators
