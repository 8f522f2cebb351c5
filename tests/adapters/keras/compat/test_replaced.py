"""What is replaced in Keras, which does not promise it: a contract test for each item.

A failure names what a new release has changed.
"""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np
import pytest
from qemu_swalp_keras import _compat

from tests.adapters.keras.conftest import BACKEND


def test_replace_backend_function_and_backend_function() -> None:
    """Operations look up the backend's functions when they are called."""
    names = ["numpy.matmul", "numpy.einsum", "numpy.dot", "numpy.inner", "numpy.vdot"]
    names += ["numpy.tensordot", "nn.conv", "nn.depthwise_conv", "nn.separable_conv"]
    names += ["nn.conv_transpose", "nn.dot_product_attention", "lstm", "gru", "rnn"]
    assert all(callable(_compat.backend_function(name)) for name in names)
    calls: list[str] = []

    def make(function: Any) -> Any:
        def replaced(x: Any) -> Any:
            calls.append(function.__name__)
            return function(x)

        return replaced

    _compat.replace_backend_function("numpy.signbit", make)
    _compat.replace_backend_function("numpy.signbit", make)  # once is enough
    keras.ops.signbit(keras.ops.ones(1))
    assert calls == ["signbit"]
    assert _compat.backend_function("numpy.signbit").__name__ == "signbit"


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's trainer")
def test_replace_compiled_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    home = next(kind for kind in keras.Model.__mro__ if "_make_function" in vars(kind))
    monkeypatch.setattr(home, "_make_function", home._make_function)
    steps: list[Any] = []

    def make(function: Any) -> Any:
        return lambda model, step: steps.append(step) or function(model, step)

    _compat.replace_compiled_steps(make)
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.make_train_function()
    model.make_test_function()
    assert steps == [model.train_step, model.test_step]


def test_around_layer_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    kind, calls = keras.layers.Layer, []
    for name in ("__call__", "_lock_state", "stateless_call"):
        monkeypatch.setattr(kind, name, getattr(kind, name))

    def make(call: Any) -> Any:
        def called(layer: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(f"call {layer.name}")
            return call(layer, *args, **kwargs)

        return called

    _compat.around_layer_calls(make, lambda layer: calls.append(f"lock {layer.name}"))
    keras.layers.Dense(1, name="dense")(np.ones((1, 1), "f4"))
    assert calls == ["call dense", "lock dense"]
    del calls[:]
    layer = keras.layers.Dense(1, name="stateless")
    layer.build((1, 1))
    layer.stateless_call([v.value for v in layer.trainable_variables], [], np.ones((1, 1), "f4"))
    assert calls == ["lock stateless", "call stateless"]
    assert "call" not in layer.__dict__


def test_before_from_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.layers.Layer, "from_config", keras.layers.Layer.from_config)
    _compat.before_from_config(lambda config: {**config, "units": 7})
    layer = keras.layers.Dense(3)
    assert type(layer).from_config(layer.get_config()).units == 7


def test_around_items_of_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.Variable, "__getitem__", keras.Variable.__getitem__)
    _compat.around_items_of_variables(lambda item: lambda v, index: (v, index))
    v = keras.Variable(np.ones(2, "f4"))
    assert v[1] == (v, 1)


def test_operators_private_functions_and_methods_can_be_replaced() -> None:
    """What Keras's own code calls is found where it was replaced, in calls that follow."""
    seen: list[str] = []

    def noted(name: str, function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            seen.append(name)
            return function(*args, **options)

        return call

    x = keras.ops.convert_to_tensor([[1.0, 2.0]])
    home, plain = keras.src.ops.nn, keras.src.ops.nn._normalize
    try:
        _compat.replace_private_function("ops.nn._normalize", lambda f: noted("normalize", f))
        keras.layers.UnitNormalization()(x)
    finally:
        home._normalize = plain
    kind, call = (
        keras.layers.GroupNormalization,
        keras.layers.GroupNormalization._apply_normalization,
    )
    try:
        _compat.replace_method(kind, "_apply_normalization", lambda f: noted("group", f))
        keras.layers.GroupNormalization(1)(x)
    finally:
        kind._apply_normalization = call
    assert seen == ["normalize", "group"]
    assert _compat.function_in_place("numpy.add") is keras.src.backend.numpy.add


@pytest.mark.skipif(BACKEND == "torch", reason="a mode sees PyTorch's operators")
def test_operators_of_tensors_are_ours() -> None:
    """Of eager tensors and of traced ones."""
    from tests.helpers.keras_native import MODES, traced

    seen: list[str] = []
    x = keras.ops.convert_to_tensor([1.0, 2.0])
    kinds = {k for k in type(x).__mro__ if "__add__" in vars(k)}
    if BACKEND == "jax":
        import jax

        kinds.add(jax.core.Tracer)
    plain = {kind: kind.__add__ for kind in kinds}

    def noted(name: str, operator: Any) -> Any:
        return lambda a, b: (seen.append(name), operator(a, b))[1]

    try:
        _compat.replace_operators(["__add__"], noted)
        for mode in MODES:
            traced(lambda x: x + 2.0, mode)(x)
        assert seen == ["__add__"] * len(MODES)
    finally:
        for kind, operator in plain.items():
            kind.__add__ = operator


@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_policies_of_models_are_kept(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved in the config, and given to what is loaded and cloned."""
    from keras.src.models import cloning, functional

    for owner, name in (
        (functional.Functional, "get_config"),
        (keras.Sequential, "get_config"),
        (keras.Sequential, "from_config"),
        (functional, "functional_from_config"),
        (cloning, "_clone_functional_model"),
        (cloning, "_clone_sequential_model"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    given: list[str] = []
    _compat.keep_policies_of_models(
        lambda model: f"of {model.name}", lambda model, config: given.append(config)
    )
    x = keras.layers.Input((2,))
    model = keras.Model(x, keras.ops.relu(x), name="graph")
    if kind == "sequential":
        model = keras.Sequential([x, keras.layers.ReLU()], name="graph")
    assert model.get_config()["rounding"] == "of graph"
    type(model).from_config(model.get_config())
    keras.models.clone_model(model)
    assert given == ["of graph"] * 2


def test_signatures_of_the_replaced_methods() -> None:
    optimizer = keras.optimizers.SGD(0.1)
    for method, names in (
        (optimizer.update_step, ["gradient", "variable", "learning_rate"]),
        (optimizer._apply_weight_decay, ["variables"]),
        (optimizer._backend_update_step, ["grads", "trainable_variables", "learning_rate"]),
    ):
        assert list(inspect.signature(method).parameters) == names


def test_a_method_is_replaced_where_it_is_defined() -> None:
    """Keras asks of a loaded model whether its class has another `compile` than the trainer's."""
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    assert "compile" not in vars(keras.Model)
    made = keras.Sequential.from_config(model.get_config())
    made.compile_from_config(model.get_compile_config())
    assert isinstance(made.optimizer, keras.optimizers.SGD)
    assert "make_train_function" in {name for k in keras.Model.__mro__ for name in vars(k)}
