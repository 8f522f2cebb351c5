"""What is put in the place of functions and methods of Keras and its backends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import keras
from keras import src as _keras
from keras.src import backend as _backend
from keras.src.models.functional import Functional as _Functional


def backend_function(name: str) -> Callable[..., Any]:
    """The function of the running backend, as in "numpy.matmul", whatever stands in its place."""
    replaced = _replaced.get(name)
    return replaced if replaced is not None else attrgetter(name)(_backend)


def replace_backend_function(
    name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> None:
    """Have Keras call make(function) in place of a function of its backend, in this process."""
    if name in _replaced:
        return
    *modules, last = name.split(".")
    function = backend_function(name)
    _replaced[name] = function
    setattr(attrgetter(".".join(modules))(_backend) if modules else _backend, last, make(function))


_replaced: dict[str, Callable[..., Any]] = {}


def function_in_place(name: str) -> Callable[..., Any]:
    """What Keras calls as a function of its backend: ours, where it was replaced."""
    function: Callable[..., Any] = attrgetter(name)(_backend)
    return function


def replace_private_function(
    name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> None:
    """The same of a function of Keras itself, as in "ops.nn._normalize"."""
    module, _, last = name.rpartition(".")
    home = attrgetter(module)(_keras)
    setattr(home, last, make(getattr(home, last)))


def replace_method(
    kind: type[Any], name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> None:
    """Have make(method) called for a method of a class of Keras.

    It is replaced in the class that defines it: Keras asks whether `compile` of a model is another
    than there.
    """
    home = next(base for base in kind.__mro__ if name in vars(base))
    setattr(home, name, make(getattr(home, name)))


def replace_compiled_steps(make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Have make(function) called for function(model, step), by which TensorFlow's trainer compiles
    `train_step` and `test_step`.
    """
    replace_method(keras.Model, "_make_function", make)


def replace_operators(
    names: Sequence[str], make: Callable[[str, Callable[..., Any]], Callable[..., Any]]
) -> None:
    """Have make(name, operator) called for operators of TensorFlow's or JAX's tensors, as in
    "__add__". Those of PyTorch are seen by a mode.
    """
    kinds: list[Any] = []
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        kinds = [tf.Tensor]
    elif keras.backend.backend() == "jax":
        import jax
        from jax._src.array import ArrayImpl

        kinds = [jax.core.Tracer, ArrayImpl]
    for kind in kinds:
        for name in names:
            setattr(kind, name, make(name, getattr(kind, name)))


def around_layer_calls(
    make_call: Callable[[Callable[..., Any]], Callable[..., Any]],
    before_lock: Callable[[Any], None],
) -> None:
    """Have make_call(Layer.__call__) called for each layer, and before_lock(layer) when one was
    built, while state can still be added to it.

    `stateless_call`, by which JAX trains, calls the model's `call` past its `__call__`: so that is
    wrapped there.
    """
    lock = keras.layers.Layer._lock_state
    stateless = keras.layers.Layer.stateless_call

    def stateless_call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        shadowed = {"call": layer.__dict__["call"]} if "call" in layer.__dict__ else {}
        call = layer.call
        layer.__dict__["call"] = partial(make_call(lambda _, *a, **k: call(*a, **k)), layer)
        try:
            return stateless(layer, *args, **kwargs)
        finally:
            del layer.__dict__["call"]
            layer.__dict__.update(shadowed)

    def lock_state(layer: Any) -> None:
        before_lock(layer)
        lock(layer)

    keras.layers.Layer._lock_state = lock_state
    keras.layers.Layer.stateless_call = stateless_call
    keras.layers.Layer.__call__ = make_call(keras.layers.Layer.__call__)


def before_from_config(prepare: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Have layers made from prepare(config): Keras keeps of a dtype policy there but its name."""
    from_config = keras.layers.Layer.from_config.__func__

    def prepared(cls: Any, config: dict[str, Any]) -> Any:
        return from_config(cls, prepare(config))

    keras.layers.Layer.from_config = classmethod(prepared)


def keep_policies_of_models(
    config_of: Callable[[Any], Any], give: Callable[[Any, Any], None]
) -> None:
    """Have functional and sequential models saved with config_of(model), unless that is None, and
    give(model, config) called when they are loaded and cloned: Keras keeps nothing of their dtype
    policies.
    """
    key = "rounding"

    def make_get_config(get_config: Callable[..., Any]) -> Callable[..., Any]:
        def with_policy(model: Any) -> dict[str, Any]:
            config = config_of(model)
            return {**get_config(model), **({} if config is None else {key: config})}

        return with_policy

    def make_from_config(from_config: Callable[..., Any]) -> Callable[..., Any]:
        def with_policy(cls: Any, config: dict[str, Any], *args: Any, **options: Any) -> Any:
            plain = {name: value for name, value in config.items() if name != key}
            model = from_config(cls, plain, *args, **options)
            if key in config:
                give(model, config[key])
            return model

        return with_policy

    def make_clone(clone: Callable[..., Any]) -> Callable[..., Any]:
        def with_policy(model: Any, *args: Any, **options: Any) -> Any:
            made, config = clone(model, *args, **options), config_of(model)
            if config is not None:
                give(made, config)
            return made

        return with_policy

    replace_method(_Functional, "get_config", make_get_config)
    replace_private_function("models.functional.functional_from_config", make_from_config)
    replace_private_function("models.cloning._clone_functional_model", make_clone)
    replace_method(keras.Sequential, "get_config", make_get_config)
    from_config = make_from_config(keras.Sequential.from_config.__func__)
    keras.Sequential.from_config = classmethod(from_config)
    replace_private_function("models.cloning._clone_sequential_model", make_clone)


def around_items_of_variables(
    make: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> None:
    """Have make(function) called for variable[index]."""
    kind = keras.Variable
    kind.__getitem__ = make(kind.__getitem__)
