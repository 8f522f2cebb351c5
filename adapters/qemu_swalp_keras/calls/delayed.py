"""Delayed scaling: operands under scales that follow the steps before, and what the scales become.

The state of an operand is one vector: its scale, its history, and how many backwards made it,
since gradients of one step add up: more than one leave no scale. A backward gives the next state
as the gradient of the present one, with which optimizers of Keras overwrite it, as they do with the
scales of Keras's own float8 training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

import qemu_swalp
from qemu_swalp.training.delayed import Delayed

from ..backend import has_value
from ..layers.straight_through import Rule, as_loss_scaling_needs
from ..watching import observe
from .core import random_of
from .differentiable import attached

GREATEST = 2.0**126
"""Its inverse is the least normal number: TensorFlow and XLA take lesser ones for 0."""


def first_state(shape: Sequence[int], dtype: Any = None) -> Any:
    """A scale of 1 and no history, made by no backward."""
    return ops.concatenate([ops.ones((1,), dtype), ops.zeros((shape[0] - 1,), dtype)])


def made_once(state: Any) -> bool:
    """Whether no more than one backward made a state; True where a trace leaves that open."""
    return not has_value(state) or float(ops.convert_to_numpy(state)[-1]) <= 1


def scaled(x: Any, rule: Rule, state: Any, step: Any, enabled: Any) -> Any:
    """x rounded under the scale of a state, where that is enabled; straight-through."""
    value, held = ops.stop_gradient(x), ops.stop_gradient(state)
    scale = ops.where(held[-1] > 1, float("nan"), held[0])
    quantizer, random = rule.quantizer, random_of(rule, step)
    observe(rule.label, value, quantizer, random, scale)
    form: Any = quantizer.format
    y = qemu_swalp.quantize(value, form, quantizer.rounding, random=random, scales=scale)
    y = as_loss_scaling_needs(y, value, rule)
    if not isinstance(enabled, int):
        y = ops.where(ops.not_equal(enabled, 0), y, value)
    return attached(y, _straight_through, None, (step, enabled), x)


def _straight_through(*call: Any) -> tuple[None, Any]:
    _, _, _, upstream, _ = call
    return None, upstream


def next_states(state: Any, operands: Sequence[tuple[Any, Callable[[Any], Any]]]) -> list[Any]:
    """What `state.scales` become.

    state : a `State`.
    operands : an `Operand` for the input, the weight and the error, each with a function that gives
        it as its quantizer sees it, done by an `Operand` that does not round.
    """
    following = list(state.scales)
    for operand, seen in operands:
        if operand.scaling is not None:
            delayed, index = operand.scaling
            before = state.scales[index]
            after = _after(before, seen(operand.unrounded), delayed, _greatest(operand))
            if not isinstance(state.enabled, int):
                after = ops.where(ops.not_equal(state.enabled, 0), after, before)
            following[index] = after
    return following


def _greatest(operand: Any) -> float:
    """The greatest value of the format's elements."""
    form: Any = operand.rule.quantizer.format if operand.rule is not None else None
    return float(form.element.max)


def _after(state: Any, x: Any, delayed: Delayed, greatest: float) -> Any:
    """The state after a step that rounded x: clause by clause as `Delayed` has it."""
    scale, history = state[0], state[1:-1]
    new = ops.cast(ops.max(ops.abs(x)), "float32")
    moved = ops.concatenate([ops.reshape(new, (1,)), history[:-1]])
    known = history if delayed.lag else moved
    amax = known[0] if delayed.amax == "most_recent" else ops.max(known)
    limit = ops.full_like(amax, greatest)
    factor = ops.divide(ops.divide(limit, amax), ops.full_like(amax, 2.0**delayed.margin))
    fits = ops.logical_and(amax > 0, ops.isfinite(amax))
    one = ops.ones_like(scale)
    factor = ops.where(fits, factor, ops.divide(one, scale))
    scale = ops.divide(one, ops.minimum(factor, ops.full_like(factor, GREATEST)))
    return ops.concatenate([ops.reshape(scale, (1,)), moved, ops.ones((1,), "float32")])
