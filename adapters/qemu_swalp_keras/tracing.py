"""Steps of models that round, on TensorFlow: traced once, also those that make variables."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import keras

from ._compat import flat_layers, replace_compiled_steps, variables_outside
from .averaging.model_swap import quantized_within
from .backend import backend
from .calls.rounding_state import policy_of
from .layers.quantize import Quantize


@cache
def install() -> None:
    """See which steps Keras compiles, once in a process."""
    if backend() == "tensorflow":
        replace_compiled_steps(_traced_once)


def _traced_once(make_function: Callable[..., Any]) -> Callable[..., Any]:
    """An optimizer or metrics are built in the first step, which is traced twice for that; each
    rounding would be so too. A `LossScaleOptimizer` needs the second trace: in the first, where it
    is not built yet, the loss is scaled by a constant.
    """

    @wraps(make_function)
    def make(model: Any, step: Callable[[Any], Any]) -> Any:
        if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) or not _rounds(model):
            return make_function(model, step)

        @wraps(step)
        def traced_once(data: Any) -> Any:
            with variables_outside():
                return step(data)

        return make_function(model, traced_once)

    return make


def _rounds(model: Any) -> bool:
    """Whether anything of a model or of its optimizer is rounded."""
    return bool(quantized_within(model.optimizer)) or any(
        isinstance(layer, Quantize) or policy_of(layer) is not None for layer in flat_layers(model)
    )
