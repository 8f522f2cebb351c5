"""Operands that the forward and the backward products share, as the forward rounds them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from keras import ops

from qemu_swalp.ops.clipping import clipped

from ..calls.core import by_core
from ..calls.differentiable import differentiable
from ..calls.operands import (
    Operand,
    Operands,
    Prepare,
    ProductRules,
    State,
    prepared,
    turned,
)


def rounded_once(operands: Operands, state: State) -> tuple[Prepare, Prepare, Operands]:
    """What prepares both operands of the forward product, once for all products, and what is left
    to do in these.
    """
    forward = operands.forward
    first, second = (partial(_shared, operand=operand, state=state) for operand in forward[:2])
    return first, second, Operands(ProductRules(sum=forward.sum), operands.dgrad, operands.wgrad)


def _shared(x: Any, operand: Operand, state: State) -> Any:
    """An operand, whose last axis is summed over, as it is multiplied, less its factor.

    Its gradient is zero where the rounding clipped, and transformed back.
    """
    return differentiable(_forward, _backward)(operand, (state.step, state.enabled), x)


def _forward(operand: Operand, state: Any, x: Any) -> Any:
    y = prepared(x, operand, State(*state))
    return y if operand.factor == 1 else _where(state[1], y / operand.factor, y)


def _backward(
    operand: Operand, state: Any, tensors: Sequence[Any], error: Any, needed: Any
) -> tuple[Any]:
    (x,), (step, enabled), gradient = tensors, state, error
    if operand.rule is not None:
        before = prepared(ops.stop_gradient(x), operand.unrounded, State(step, enabled))
        mask = partial(_mask, operand.rule.quantizer.format)
        outside = by_core(mask, [before], 0, before.shape)
        gradient = ops.where(outside > 0, ops.zeros_like(error), error)
    if operand.turn is not None:
        gradient = turned(gradient, operand.turn, step, inverse=True)
    return (_where(enabled, gradient, error),)


def _mask(form: Any, x: Any, step: Any) -> Any:
    """1 where x is clipped, else 0; of x's dtype."""
    mask = clipped(x, form)
    return mask.astype(x.dtype) if isinstance(x, np.ndarray) else ops.cast(mask, x.dtype)


def _where(enabled: Any, x: Any, otherwise: Any) -> Any:
    return x if isinstance(enabled, int) else ops.where(ops.not_equal(enabled, 0), x, otherwise)
