"""What a layer computes in float though its recipe asks for rounding."""

from __future__ import annotations

import warnings
from typing import Any

POLICIES = ("raise", "warn", "ignore")


class UncoveredError(RuntimeError):
    """A call computed something in float that the recipe asks to round."""


def report(policy: Any, layer: str, section: str, operation: str, remedy: str) -> None:
    """Raise, warn or pass over, as the call that asked for the rounding said.

    Parameters
    ----------
    policy : the `RoundingPolicy` of the call.
    layer : its name.
    section : of the recipe, "products" or "elementwise".
    operation : what the layer called, or what its backend computed.
    remedy : how it can be rounded, as a clause.
    """
    where, it = ("the loss",) * 2 if policy.is_of_loss else (f"layer {layer!r}", "the layer")
    message = (
        f"the recipe's section {section!r} could not be applied to {operation!r}, which"
        f" {where} computes: {remedy}; exclude {it} by name (exclude={layer!r}); or"
        ' leave it in float knowingly by uncovered="warn" or "ignore"'
    )
    _tell(policy, section, message)


def report_unseen(policy: Any, layer: str, error: Exception) -> None:
    """The same of a layer whose call JAX cannot trace, so that what it computes is not seen."""
    message = (
        f"what layer {layer!r} computes past Keras cannot be watched, for JAX cannot trace it"
        f" ({type(error).__name__}), as where it reads values of tensors; read none in its call;"
        f" exclude the layer by name (exclude={layer!r}); or leave such operations in float"
        ' knowingly by uncovered="warn" or "ignore"'
    )
    for section in ("products", "elementwise"):
        if policy.asks(layer, section):
            _tell(policy, section, message)


def _tell(policy: Any, section: str, message: str) -> None:
    asked = getattr(policy, section)
    if asked is None or asked.uncovered == "ignore":
        return
    if asked.uncovered == "raise":
        raise UncoveredError(message)
    warnings.warn(message, stacklevel=4)
