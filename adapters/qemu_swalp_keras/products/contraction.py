"""Matrix products with operands and sums rounded, each by itself: the forward product and the two
of the backward.

Every operand is handed to its quantizer with the axis that is summed over last, as in
`qemu_swalp_torch.ops.matmul`, so that blocks with axis=-1 lie along the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

import qemu_swalp

from ..backend import backend
from ..calls.core import by_core, is_zero, random_of
from ..calls.delayed import next_states
from ..calls.differentiable import differentiable, once
from ..calls.operands import Operands, ProductRules, State, prepared, unscaled
from ..calls.pausing import paused
from ..layers.straight_through import Rule, as_loss_scaling_needs, keeps_overflow
from .shared import rounded_once


def contract(operands: Operands, state: State, a: Any, b: Any) -> Any:
    """a·b; a of shape (*batch, M, K), the input, b (*batch, K, N), the weight or in its place.

    As their quantizers see them: a (M, K) and b (N, K) forward; error (M, N) and b (K, N) in dgrad;
    error (N, M) and a (K, M) in wgrad, the gradient of b.
    """
    step, enabled, scales = state
    if operands.from_rounded:
        with paused():
            first, second, operands = rounded_once(operands, state)
            a, b = first(a), _t(second(_t(b)))
    backward = _summed_backward if operands.sums_backward else _backward
    return differentiable(_forward, backward)(operands, (step, enabled), a, b, *scales)


def product(a: Any, b: Any, rules: ProductRules, state: Any) -> Any:
    """a·b of operands that are prepared, accumulated by the rule of the sum."""
    return unscaled(accumulated(a, b, rules.sum, state), rules, state)


def accumulated(a: Any, b: Any, rule: Rule | None, state: Any) -> Any:
    """a·b, accumulated by a rule where that is enabled."""
    step, enabled, _ = state
    off = rule is None or is_zero(enabled)
    if rule is None or off is True:
        return _multiplied(a, b)
    accumulation: Any = rule.quantizer

    def multiplied(a: Any, b: Any, step: Any) -> Any:
        return qemu_swalp.matmul(a, b, accumulation, random=random_of(rule, step))

    y = by_core(multiplied, [a, b], step, (*a.shape[:-1], b.shape[-1]), loops=True)
    if keeps_overflow(rule, y):
        y = as_loss_scaling_needs(y, _multiplied(a, b), rule)
    return y if off is False else ops.where(off, _multiplied(a, b), y)


def _multiplied(a: Any, b: Any) -> Any:
    """a·b in full precision. Keras's function makes float32 of float64 on PyTorch."""
    return a @ b if backend() == "torch" else ops.matmul(a, b)


def _forward(operands: Operands, state: Any, a: Any, b: Any, *scales: Any) -> Any:
    rules, state = operands.forward, State(state[0], state[1], scales)
    with paused():
        first = prepared(a, rules.first, state)
        return product(first, _t(prepared(_t(b), rules.second, state)), rules, state)


def _backward(
    operands: Operands, state: Any, tensors: Sequence[Any], error: Any, needed: Sequence[bool]
) -> tuple[Any, ...]:
    a, b, *scales = tensors
    state = State(state[0], state[1], tuple(scales))
    da = db = None
    with paused():
        if needed[0]:
            rules = operands.dgrad
            first = prepared(error, rules.first, state)
            da = product(first, _t(prepared(b, rules.second, state)), rules, state)
        if needed[1]:
            rules = operands.wgrad
            second = prepared(_t(a), rules.second, state)
            db = product(second, _t(prepared(_t(error), rules.first, state)), rules, state)
        return da, db, *next_states(state, _seen(operands, state, (a, b, error), needed[0]))


_summed_backward = once(_backward)


def _seen(operands: Operands, state: State, tensors: Any, has_dgrad: bool) -> Any:
    """The operands and how they are seen, for `next_states`."""
    a, b, error = tensors
    e = error if has_dgrad else _t(error)
    return (
        (operands.forward.first, lambda operand: prepared(a, operand, state)),
        (operands.forward.second, lambda operand: prepared(_t(b), operand, state)),
        (
            operands.dgrad.first if has_dgrad else operands.wgrad.first,
            lambda operand: prepared(e, operand, state),
        ),
    )


def _t(x: Any) -> Any:
    return ops.swapaxes(x, -1, -2)
