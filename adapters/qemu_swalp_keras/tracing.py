"""Steps of models that round: compiled anew when what they round has changed; on TensorFlow traced
once, also those that make variables.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial, wraps
from itertools import zip_longest
from typing import Any
from weakref import WeakKeyDictionary

import keras

from ._compat import flat_layers, replace_compiled_steps, replace_method, variables_outside
from .averaging.model_swap import quantized_within
from .backend import backend
from .calls.rounding_state import policy_of
from .layers.quantize import Quantize


@cache
def install() -> None:
    """See which steps Keras compiles, once in a process."""
    for step in ("train", "test", "predict"):
        replace_method(keras.Model, f"make_{step}_function", partial(_made_anew, step))
    if backend() == "tensorflow":
        replace_compiled_steps(_traced_once)


_POLICIES: WeakKeyDictionary[Any, dict[str, list[Any]]] = WeakKeyDictionary()
"""Of each model, by the name of a step, its layers' policies when that was compiled."""


def _made_anew(step: str, make_function: Callable[..., Any]) -> Callable[..., Any]:
    """`fit`, `evaluate` and `predict` keep what they have compiled, also if the model was not
    rounded then, or is not any more.
    """

    @wraps(make_function)
    def make(model: Any, force: bool = False) -> Any:
        policies = [policy_of(layer) for layer in flat_layers(model)]
        before = _POLICIES.setdefault(model, {}).get(step, [])
        changed = any(a is not b for a, b in zip_longest(before, policies))
        _POLICIES[model][step] = policies
        return make_function(model, force or changed)

    return make


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
