"""Products that a layer makes past Keras, by functions of the backend itself: found in its first
call, and told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops, tree

from .._compat import dispatched_products, products_in_program
from ..backend import backend
from .pausing import is_paused
from .policy import RoundingPolicy
from .scope import Scope, opened
from .uncovered import report

REMEDY = "multiply by keras.ops, whose products are rounded"


@contextmanager
def watched(scope: Scope) -> Iterator[None]:
    """The first call of a layer: what it multiplies past Keras is told as its recipe says. On JAX
    `probe` does that.
    """
    if not _is_asked(scope.policy) or backend() == "jax":
        yield
        return

    def note(operation: str) -> None:
        if not is_paused():
            report(scope.policy, scope.layer_name, "products", operation, REMEDY)

    with dispatched_products(note):
        yield
    scope.policy.checked = True


def probe(
    call: Callable[..., Any], layer: Any, policy: RoundingPolicy, training: bool, inputs: Any
) -> None:
    """On JAX, whose compiled functions hide what they compute: trace the first call of a layer once
    more, without effect, and tell what it multiplies past Keras.

    inputs : (args, kwargs) of the call.
    """
    if not _is_asked(policy) or backend() != "jax":
        return
    flat = tree.flatten(inputs)
    traced = [i for i, x in enumerate(flat) if ops.is_tensor(x)]
    values = [(v, v.value) for v in layer.variables]

    def function(*tensors: Any) -> None:
        given = list(flat)
        for i, x in zip(traced, tensors, strict=True):
            given[i] = x
        args, kwargs = tree.pack_sequence_as(inputs, given)
        with keras.StatelessScope(values), opened(layer, policy, training):
            call(layer, *args, **kwargs)

    policy.checked = True
    for operation in dict.fromkeys(products_in_program(function, [flat[i] for i in traced])):
        report(policy, policy.path or layer.name, "products", operation, REMEDY)


def _is_asked(policy: RoundingPolicy) -> bool:
    asked = policy.products
    return not policy.checked and asked is not None and asked.uncovered != "ignore"
