"""Calls of layers: a layer that rounds opens a scope, in which the backend's functions round."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import keras
from keras import tree

from .._compat import (
    around_layer_calls,
    before_from_config,
    is_training,
    keep_policies_of_models,
    replace_backend_function,
    replace_method,
)
from ..backend import is_exported_plain
from ..layers.names import computes_itself
from ..layers.rebuild import is_graph
from . import branches, loops, unknown
from .losses import see_loss
from .pausing import inferring, is_inferring, is_paused, paused, resumed
from .policy import RoundingPolicy
from .repeated import repeated
from .rounding_state import policy_of, prepare
from .scope import called, current, opened
from .watch import call_within


@cache
def install() -> None:
    """See calls of layers, once in a process."""
    around_layer_calls(_layer_call, _add_state)
    before_from_config(_with_policy)
    keep_policies_of_models(_config_of, _give)
    replace_backend_function("compute_output_spec", inferring())  # shapes
    replace_backend_function("core.remat", repeated)
    replace_method(keras.layers.Layer, "_maybe_build", paused())  # initial weights
    loops.install()
    branches.install()
    unknown.install()


def _layer_call(call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def layer_call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        with called():
            return _called(call, layer, *args, **kwargs)

    def _called(call: Callable[..., Any], layer: Any, *args: Any, **kwargs: Any) -> Any:
        scope, policy = current(), policy_of(layer)
        if policy is not None:
            _ready(layer)
        if _symbolic((args, kwargs)):
            with paused():
                return call(layer, *args, **kwargs)
        if scope is not None and not (policy is not None and is_graph(scope.layer)):
            with scope.within(layer):
                return call(layer, *args, **kwargs)
        if policy is not None and policy.delayed and is_inferring():
            with resumed(), opened(layer, policy, False, finds_scales=True):
                return call(layer, *args, **kwargs)
        if policy is None or is_paused() or not computes_itself(layer):
            return call(layer, *args, **kwargs)
        if is_exported_plain() and not policy.rounds_forward:
            return call(layer, *args, **kwargs)
        return call_within(call, layer, policy, is_training(kwargs), args, kwargs)

    return layer_call


def _with_policy(config: dict[str, Any]) -> dict[str, Any]:
    dtype = config.get("dtype")
    if not isinstance(dtype, dict) or dtype.get("class_name") != RoundingPolicy.__name__:
        return config
    return {**config, "dtype": keras.dtype_policies.deserialize(dtype)}


def _config_of(model: Any) -> Any:
    """The policy of a model, as a config; None where it has none of its own."""
    policy = policy_of(model)
    return None if policy is None else keras.dtype_policies.serialize(policy)


def _give(model: Any, config: Any) -> None:
    model.dtype_policy = keras.dtype_policies.deserialize(config)
    _ready(model)


def _add_state(layer: Any) -> None:
    if policy_of(layer) is not None:
        _ready(layer)


def _ready(layer: Any) -> None:
    prepare(layer)
    see_loss(layer)


def _symbolic(structure: Any) -> bool:
    return any(isinstance(x, keras.KerasTensor) for x in tree.flatten(structure))
