"""Gradients of single elementwise operations as elementwise operations, each rounded by an
`Arithmetic`.

`g` is the gradient with respect to the result `y`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from . import functional
from .functional import Arithmetic

RESULT = -1
"""In place of the index of an operand."""


def slope(name: str, index: int = 0) -> str:
    """The name of a function's derivative by the operand of that index."""
    return f"{name}_slope{index or ''}"


def of_slope(name: str) -> tuple[str, int]:
    """Function and index of which the name is the `slope`.

    >>> of_slope(slope("power", 1))
    ('power', 1)
    """
    function, _, index = name.rpartition("_slope")
    return function, int(index or 0)


def is_saved(name: str, index: int, needed: Sequence[bool]) -> bool:
    """Whether a gradient reads the operand of that index, or the result.

    needed : of which operands gradients are asked for. What none reads may be changed in place.
    """
    if name in ("add", "subtract", "sum"):
        return False
    if name == "multiply":
        return index != RESULT and needed[1 - index]
    if name == "divide":
        return index == 1 or (index == RESULT and needed[1])
    if name in ("sqrt", "exp", "tanh"):
        return index == RESULT
    return index != RESULT


def gradient(
    ops: Arithmetic, name: str, index: int, g: Any, y: Any, operands: Sequence[Any]
) -> Any:
    """By the operand of that index, of the result's shape.

    name : of an operation of `Arithmetic`; any other is a function, whose derivative
        `ops.function(slope(name, index), …)` evaluates.
    """
    if name not in GRADIENTS:
        return ops.multiply(g, ops.function(slope(name, index), *operands))
    if name == "subtract" and index == 1:
        return -g
    if name == "divide" and index == 1:
        return -ops.multiply(ops.divide(g, operands[1]), y)
    return GRADIENTS[name](ops, g, y, operands[1 - index] if len(operands) == 2 else operands[0])


GRADIENTS: dict[str, Callable[[Arithmetic, Any, Any, Any], Any]] = {
    "add": lambda ops, g, y, other: g,
    "subtract": lambda ops, g, y, other: g,
    "multiply": lambda ops, g, y, other: ops.multiply(g, other),
    "divide": lambda ops, g, y, other: ops.divide(g, other),
    "sqrt": lambda ops, g, y, x: ops.divide(ops.multiply(g, 0.5), y),
    "exp": lambda ops, g, y, x: ops.multiply(g, y),
    "log": lambda ops, g, y, x: ops.divide(g, x),
    "tanh": lambda ops, g, y, x: functional.tanh_gradient(ops, y, g),
    "erf": lambda ops, g, y, x: ops.multiply(
        g, ops.multiply(ops.exp(-ops.multiply(x, x)), 2 / math.sqrt(math.pi))
    ),
    "sum": lambda ops, g, y, x: g,
}
"""By (arithmetic, gradient of the result, result, the other operand or the only one)."""
