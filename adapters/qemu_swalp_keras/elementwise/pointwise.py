"""Elementwise operations and sums with gradients, each rounded, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from qemu_swalp.training.derivatives import gradient
from qemu_swalp.training.functional import FORMULAS

from ..backend import dtype_of
from ..calls.differentiable import attached, once
from ..calls.rules import ElementwiseRules
from .arithmetic import RoundedArithmetic
from .function_table import FUNCTIONS


def apply(name: str, rules: ElementwiseRules, state: Any, *operands: Any) -> Any:
    """An operation of `RoundedArithmetic`, or one of `FUNCTIONS` of an operand and constants.

    Tensors are promoted as Keras does, and broadcast; their gradients are rounded too.
    """
    tensors = [x for x in operands if ops.is_tensor(x)]
    kinds = {dtype_of(x) for x in tensors}
    dtype = kinds.pop() if len(kinds) == 1 else keras.backend.result_type(*kinds)
    tensors = [x if dtype_of(x) == dtype else ops.cast(x, dtype) for x in tensors]
    constants = tuple(None if ops.is_tensor(x) else float(x) for x in operands)
    value = _computed(
        RoundedArithmetic(rules, state, "forward"),
        name,
        _filled(constants, [ops.stop_gradient(x) for x in tensors]),
    )
    return attached(value, _backward, (name, constants, rules), tuple(state), *tensors)


def formula(name: str, rules: ElementwiseRules, state: Any, x: Any) -> Any:
    """One of `FORMULAS`, over the last axis where it is of rows."""
    value = FORMULAS[name][0](RoundedArithmetic(rules, state, "forward"), ops.stop_gradient(x))
    return attached(value, _formula_backward, (name, rules), tuple(state), x)


def _filled(constants: Sequence[float | None], tensors: Sequence[Any]) -> list[Any]:
    """The operands: a tensor in place of each None."""
    rest = iter(tensors)
    return [next(rest) if constant is None else constant for constant in constants]


def _computed(ops_: RoundedArithmetic, name: str, operands: Sequence[Any]) -> Any:
    if name in FUNCTIONS:
        return ops_.function(name, *operands)
    return getattr(ops_, name)(*operands)


@once
def _backward(static: Any, state: Any, tensors: Sequence[Any], g: Any, needed: Any) -> list[Any]:
    name, constants, rules = static
    y, *given = tensors
    operands = _filled(constants, given)
    indices = [i for i, constant in enumerate(constants) if constant is None]
    arithmetic = RoundedArithmetic(rules, state, "backward")
    found: list[Any] = [None]
    for index, x, is_needed in zip(indices, given, needed[1:], strict=True):
        if not is_needed:
            found.append(None)
        elif name == "sum":
            found.append(ops.broadcast_to(g, ops.shape(x)))
        else:
            whole = gradient(arithmetic, name, index, g, y, operands)
            found.append(_reduced(arithmetic, whole, x))
    return found


@once
def _formula_backward(
    static: Any, state: Any, tensors: Sequence[Any], g: Any, needed: Any
) -> tuple[None, Any]:
    (name, rules), (y, x) = static, tensors
    _, derivative, of_output = FORMULAS[name]
    return None, derivative(RoundedArithmetic(rules, state, "backward"), y if of_output else x, g)


def _reduced(arithmetic: RoundedArithmetic, g: Any, like: Any) -> Any:
    """A gradient summed over the axes that were broadcast."""
    shape, rank = like.shape, len(g.shape)
    ahead = rank - len(shape)
    summed = [d for d in range(rank) if d < ahead or (shape[d - ahead] == 1 and g.shape[d] != 1)]
    if not summed:
        return g
    return ops.reshape(arithmetic.sum(rows(g, summed)), ops.shape(like))


def rows(x: Any, axes: Sequence[int]) -> Any:
    """x with the other axes first, then one of the numbers along these."""
    kept = [d for d in range(len(x.shape)) if d not in axes]
    lengths = ops.shape(x)
    return ops.reshape(ops.transpose(x, (*kept, *axes)), (*(lengths[d] for d in kept), -1))
