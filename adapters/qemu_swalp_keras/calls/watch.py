"""What a layer computes past Keras, by functions of the backend itself: found in its first call,
and told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops, tree

from .._compat import Seen, dispatched_operations, operations_in_program
from ..backend import backend, untraced
from .operators import operator_mode
from .pausing import is_paused
from .policy import SECTIONS, RoundingPolicy
from .scope import Scope, apart, opened
from .uncovered import UncoveredError, report, report_unseen

REMEDIES = {
    "products": "multiply by keras.ops, whose products are rounded",
    "elementwise": "write it by keras.ops or by operators of tensors, which are rounded",
}


@untraced
def call_within(
    call: Callable[..., Any],
    layer: Any,
    policy: RoundingPolicy,
    training: bool,
    args: Sequence[Any],
    kwargs: dict[str, Any],
) -> Any:
    """call(layer, *args, **kwargs), which rounds by a policy; the first is watched."""
    with opened(layer, policy, training) as scope, operator_mode(), watched(scope):
        outputs = call(layer, *args, **kwargs)
    probe(call, layer, policy, training, (args, kwargs))
    return outputs


@contextmanager
def watched(scope: Scope) -> Iterator[None]:
    """The first call of a layer: what it computes past Keras is told as its recipe says. On JAX
    `probe` does that.
    """
    if not _is_asked(scope.policy) or backend() == "jax":
        yield
        return

    def note(seen: Seen) -> None:
        if not is_paused():
            _tell(scope.policy, scope.layer_name, seen)

    with dispatched_operations(note):
        yield
    scope.policy.checked = True


def probe(
    call: Callable[..., Any], layer: Any, policy: RoundingPolicy, training: bool, inputs: Any
) -> None:
    """On JAX, whose compiled functions hide what they compute: trace the first call of a layer once
    more, without effect, and tell what it computes past Keras.

    inputs : (args, kwargs) of the call.
    """
    if not _is_asked(policy) or backend() != "jax":
        return
    import jax

    flat = tree.flatten(inputs)
    traced = [i for i, x in enumerate(flat) if ops.is_tensor(x)]
    variables = [*layer.variables, *(layer.metrics_variables if policy.is_of_loss else ())]
    values = [(v, v.value) for v in variables]

    def function(*tensors: Any) -> None:
        given = list(flat)
        for i, x in zip(traced, tensors, strict=True):
            given[i] = x
        args, kwargs = tree.pack_sequence_as(inputs, given)
        with keras.StatelessScope(values), apart(), opened(layer, policy, training):
            call(layer, *args, **kwargs)

    name = policy.path or layer.name
    try:
        program = jax.make_jaxpr(function)(*(flat[i] for i in traced))
    except UncoveredError:
        raise
    except Exception as error:  # the same call was made just now, eagerly
        report_unseen(policy, name, error)
    else:
        for seen in dict.fromkeys(operations_in_program(program)):
            _tell(policy, seen.layer or name, seen)
    policy.checked = True


def _tell(policy: RoundingPolicy, layer: str, seen: Seen) -> None:
    """Unless the layer was excluded."""
    if policy.asks(layer, seen.section):
        report(policy, layer, seen.section, seen.operation, REMEDIES[seen.section])


def _is_asked(policy: RoundingPolicy) -> bool:
    asked = [getattr(policy, section) for section in SECTIONS]
    return not policy.checked and any(x is not None and x.uncovered != "ignore" for x in asked)
