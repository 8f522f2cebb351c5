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
from qemu_swalp import RandomBits

from ..layers.straight_through import Rule
from .differentiable import differentiable
from .operands import Operands, ProductRules, State, prepared, unscaled
from .pausing import paused


def contract(operands: Operands, state: State, a: Any, b: Any) -> Any:
    """a·b; a of shape (*batch, M, K), the input, b (*batch, K, N), the weight or in its place.

    As their quantizers see them: a (M, K) and b (N, K) forward; error (M, N) and b (K, N) in dgrad;
    error (N, M) and a (K, M) in wgrad, the gradient of b.
    """
    return differentiable(_forward, _backward)(operands, tuple(state), a, b)


def product(a: Any, b: Any, rules: ProductRules, state: Any) -> Any:
    """a·b of operands that are prepared, accumulated by the rule of the sum."""
    return unscaled(_product(a, b, rules.sum, state), rules, state)


def _product(a: Any, b: Any, rule: Rule | None, state: Any) -> Any:
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
    rules = operands.forward
    with paused():
        first = prepared(a, rules.first, state)
        return product(first, _t(prepared(_t(b), rules.second, state)), rules, state)


def _backward(
    operands: Operands, state: Any, tensors: Sequence[Any], error: Any, needed: Sequence[bool]
) -> tuple[Any, Any]:
    a, b = tensors
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
    return da, db


def _t(x: Any) -> Any:
    return ops.swapaxes(x, -1, -2)
