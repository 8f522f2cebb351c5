"""The loss of a model, rounded where the model computes it: in `compute_loss`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any
from weakref import WeakSet

import keras

from .._compat import replace_method
from ..layers.names import LOSS
from .pausing import is_paused, paused
from .policy import SECTIONS
from .rounding_state import loss_policy_of
from .scope import current
from .watch import call_within


def see_loss(model: Any) -> None:
    """See calls of `compute_loss`, where a model's loss is rounded."""
    if loss_policy_of(model) is not None:
        for kind in type(model).__mro__:
            _see(kind)
        _leave_metrics()


_SEEN: WeakSet[type[Any]] = WeakSet()
"""Classes whose `compute_loss` is seen; those of models that are gone are forgotten."""


def _see(kind: type[Any]) -> None:
    if kind not in _SEEN and "compute_loss" in kind.__dict__:
        replace_method(kind, "compute_loss", _rounded)
        _SEEN.add(kind)


@cache
def _leave_metrics() -> None:
    """Metrics measure, also those that `compute_loss` keeps of each loss."""
    for kind in vars(keras.metrics).values():
        if isinstance(kind, type) and "update_state" in kind.__dict__:
            replace_method(kind, "update_state", paused())


def _rounded(compute_loss: Callable[..., Any]) -> Callable[..., Any]:
    """Takes training=False, by which evaluation draws random bits of its own."""

    @wraps(compute_loss)
    def rounded(model: Any, *args: Any, **options: Any) -> Any:
        policy, scope = loss_policy_of(model), current()
        within = scope is not None and scope.policy is policy
        if policy is None or is_paused() or within or not _is_asked(policy):
            return compute_loss(model, *args, **options)
        training = args[4] if len(args) > 4 else options.get("training", True)
        return call_within(compute_loss, model, policy, bool(training), args, options)

    return rounded


def _is_asked(policy: Any) -> bool:
    return any(policy.asks(LOSS, section) for section in SECTIONS)
