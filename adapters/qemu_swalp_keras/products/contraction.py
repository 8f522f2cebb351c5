"""Matrix products with operands and sums rounded, each by itself: the forward product and the two
of the backward.

Every operand is handed to its quantizer with the axis that is summed over last, as in
`qemu_swalp_torch.ops.matmul`, so that blocks with axis=-1 lie along the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from keras import ops

import qemu_swalp
from qemu_swalp import RandomBits

from ..layers.straight_through import Rule, straight_through
from .differentiable import differentiable
from .pausing import paused


class Operands(NamedTuple):
    """Rules of `qemu_swalp.training.OPERANDS` and `SUMS`, in their order; None leaves an operand as
    it is, and a sum to the backend. Hashable.
    """

    forward_input: Rule | None = None
    forward_weight: Rule | None = None
    dgrad_error: Rule | None = None
    dgrad_weight: Rule | None = None
    wgrad_error: Rule | None = None
    wgrad_input: Rule | None = None
    forward_sum: Rule | None = None
    dgrad_sum: Rule | None = None
    wgrad_sum: Rule | None = None


class State(NamedTuple):
    """What changes from call to call: the random step, and whether anything is rounded; ints or
    0-d integer tensors.
    """

    step: Any = 0
    enabled: Any = 1


def contract(operands: Operands, state: State, a: Any, b: Any) -> Any:
    """a·b; a of shape (*batch, M, K), the input, b (*batch, K, N), the weight or in its place.

    As their quantizers see them: a (M, K) and b (N, K) forward; error (M, N) and b (K, N) in dgrad;
    error (N, M) and a (K, M) in wgrad, the gradient of b.
    """
    return differentiable(_forward, _backward)(operands, tuple(state), a, b)


def rounded(x: Any, rule: Rule | None, state: Any) -> Any:
    """x rounded where that is enabled; the gradient passes straight through."""
    if rule is None:
        return x
    step, enabled = state
    return straight_through(x, rule, None, (step, 0), enabled)


def product(a: Any, b: Any, rule: Rule | None, state: Any) -> Any:
    """a·b, accumulated by the rule."""
    if rule is None:
        return ops.matmul(a, b)
    step, enabled = state
    accumulation: Any = rule.quantizer
    random = RandomBits(rule.seed, rule.stream, step) if accumulation.stochastic else None
    y = qemu_swalp.matmul(a, b, accumulation, random=random)
    if isinstance(enabled, int):
        return y
    return ops.where(ops.not_equal(enabled, 0), y, ops.matmul(a, b))


def _forward(operands: Operands, state: Any, a: Any, b: Any) -> Any:
    with paused():
        return product(
            rounded(a, operands.forward_input, state),
            _t(rounded(_t(b), operands.forward_weight, state)),
            operands.forward_sum,
            state,
        )


def _backward(
    operands: Operands, state: Any, tensors: Sequence[Any], error: Any, needed: Sequence[bool]
) -> tuple[Any, Any]:
    a, b = tensors
    da = db = None
    with paused():
        if needed[0]:
            da = product(
                rounded(error, operands.dgrad_error, state),
                _t(rounded(b, operands.dgrad_weight, state)),
                operands.dgrad_sum,
                state,
            )
        if needed[1]:
            db = product(
                rounded(_t(a), operands.wgrad_input, state),
                _t(rounded(_t(error), operands.wgrad_error, state)),
                operands.wgrad_sum,
                state,
            )
    return da, db


def _t(x: Any) -> Any:
    return ops.swapaxes(x, -1, -2)
