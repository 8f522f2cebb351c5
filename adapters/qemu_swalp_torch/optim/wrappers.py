"""Optimizers that stand around another one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from .._compat import has_step_hooks

PASSING_ON = ("AcceleratedOptimizer", "LightningOptimizer", "_FabricOptimizer")
"""Classes of Accelerate, Lightning and Fabric whose step is that of the optimizer in their
attribute `optimizer`, and nothing more.
"""


def inner_optimizers(optimizer: Any) -> dict[str, Optimizer]:
    """The optimizers that an object has as attributes, by their names."""
    attributes = getattr(optimizer, "__dict__", {})
    return {name: x for name, x in attributes.items() if isinstance(x, Optimizer)}


def state_with(optimizers: Iterable[Optimizer], p: Tensor, key: str) -> dict[str, Any]:
    """The state of a parameter in the first optimizer that keeps something under a key."""
    states: Iterable[dict[str, Any]] = (optimizer.state.get(p, {}) for optimizer in optimizers)
    return next((state for state in states if key in state), {})


def hooked_by(optimizer: Any, name: str = "optimizer") -> Optimizer:
    """The optimizer whose hooks see the steps: itself, or the one that a wrapper of Accelerate or
    Lightning passes on to.

    TypeError, which names the optimizer to use instead, for other wrappers without hooks of their
    own, and for what is no optimizer.
    """
    if isinstance(optimizer, Optimizer) and has_step_hooks(optimizer):
        return optimizer
    kinds = {kind.__name__ for kind in type(optimizer).__mro__}
    if kinds.intersection(PASSING_ON):
        return hooked_by(optimizer.optimizer, name)
    kind = type(optimizer)
    message = f"{name} must be a torch.optim.Optimizer, got {kind.__module__}.{kind.__qualname__}"
    attribute, inner = next(iter(inner_optimizers(optimizer).items()), ("", None))
    if inner is not None:
        message += (
            f", which runs no step hooks and wraps a {type(inner).__name__}: pass that one, its"
            f" attribute {attribute!r}; what the wrapper itself does to the weights afterwards is"
            " then not seen"
        )
    elif isinstance(optimizer, Optimizer):
        message += " that has no step hooks; have its class call Optimizer.__init__"
    raise TypeError(message)
