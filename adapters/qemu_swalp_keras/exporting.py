"""Which exports of a model that rounds there are: programs that round where they are loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache, wraps
from typing import Any

import keras

from ._compat import flat_layers, replace_method
from .backend import IN_FULL_PRECISION, backend, exporting_plain
from .calls.rounding_state import policy_of
from .layers.quantize import Quantize

ROUNDING = "tf_saved_model"
"""The format whose programs round."""


@cache
def install() -> None:
    """See exports of models, once in a process."""
    replace_method(keras.Model, "export", _checked)


def _checked(export: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(export)
    def checked(
        model: Any, filepath: Any, format: str = ROUNDING, *args: Any, **options: Any
    ) -> Any:
        found = list(_stochastic(model))
        plain = format != ROUNDING or backend() == "torch"
        if found and plain:
            raise ValueError(
                f"a model that rounds is not exported as {format!r} on {backend()}; only programs"
                f" of TensorFlow round, format={ROUNDING!r} on tensorflow and jax."
                f" {IN_FULL_PRECISION}"
            )
        if any(found) and options.get("is_static"):
            raise ValueError(
                "is_static=True would keep one number for each counter of random bits, so that"
                " every call draws the same; leave it out"
            )
        with exporting_plain() if plain else nullcontext():
            return export(model, filepath, format, *args, **options)

    return checked


def _stochastic(model: Any) -> Iterator[bool]:
    """Whether it draws random bits, of each layer that rounds in the forward pass."""
    for layer in flat_layers(model):
        if isinstance(layer, Quantize):
            if layer.activation is not None:
                yield layer.activation.rounding.stochastic
        elif (policy := policy_of(layer)) is not None and policy.rounds_forward:
            yield policy.stochastic
