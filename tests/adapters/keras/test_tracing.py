"""How often steps are traced: as often as those of plain Keras, and on TensorFlow once less; but
anew when the model rounds something else.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

import keras
import numpy as np
import pytest
from qemu_swalp_keras import (
    emulate,
    quantize_elementwise,
    quantize_gemms,
    unquantize_elementwise,
    unquantize_gemms,
)

from qemu_swalp.training import Recipe
from tests.adapters.keras.conftest import BACKEND, data, network

X, Y = data(20)
CASES = {"tensorflow": [("swalp8", True), ("mxfp8", False)], "jax": [("swalp8", True)]}
"""The one recipe wraps the optimizer, the other leaves Keras's own."""


def traces(recipe: str | None, **options: Any) -> list[tuple[int, int]]:
    """How often `train_step` and `test_step` were called by Python, in each of several calls of a
    model's methods.
    """
    model, optimizer = network(), keras.optimizers.SGD(0.01, momentum=0.9)
    if recipe is not None:
        model, optimizer = emulate(model, optimizer, recipe, seed=0)
    model.compile(optimizer, "mse", metrics=["mae"], **options)
    counts = {"train_step": 0, "test_step": 0}

    def counted(name: str) -> Any:
        step = getattr(model, name)

        @wraps(step)
        def call(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return step(*args, **kwargs)

        return call

    for name in counts:
        setattr(model, name, counted(name))
    found = []
    for call in (
        lambda: model.fit(X, Y, 8, verbose=0),  # 8, 8 and 4 samples
        lambda: model.fit(X, Y, 8, verbose=0, validation_data=(X, Y), validation_batch_size=8),
        lambda: model.evaluate(X, Y, 8, verbose=0),
        lambda: model.train_on_batch(X[:8], Y[:8]),
        lambda: model.fit(X, Y, 8, verbose=0, epochs=2, validation_data=(X, Y)),
    ):
        before = dict(counts)
        call()
        found.append(tuple(counts[name] - before[name] for name in counts))
    return found


@pytest.mark.parametrize(("recipe", "jit_compile"), CASES.get(BACKEND, []))
def test_no_step_is_traced_more_often_than_without_rounding(recipe: str, jit_compile: bool) -> None:
    """Plain Keras on TensorFlow traces a first step twice: it makes the optimizer's variables."""
    plain = traces(None, jit_compile=jit_compile)
    rounded = traces(recipe, jit_compile=jit_compile)
    assert rounded[1:] == plain[1:]
    assert rounded[0] == ((1, 0) if BACKEND == "tensorflow" else plain[0])


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(
    ("call", "undo", "recipe"),
    [
        (quantize_gemms, unquantize_gemms, Recipe(operands={"input": "e2m1", "weight": "e2m1"})),
        (quantize_elementwise, unquantize_elementwise, Recipe(elementwise="e2m1")),
    ],
)
def test_what_was_compiled_before_is_compiled_anew(
    call: Any, undo: Any, recipe: Recipe, compiled: bool
) -> None:
    """As where a trained model is evaluated, rounded and evaluated again."""
    model = network()
    if compiled:
        model.compile("sgd", "mse")
        model.fit(X, Y, verbose=0)

    def results() -> list[Any]:
        evaluated = [model.evaluate(X, Y, verbose=0)] if compiled else []
        return [model.predict(X, verbose=0), *evaluated]

    plain = results()
    call(model, recipe)
    rounded, at_once = results(), keras.ops.convert_to_numpy(model(X))
    np.testing.assert_allclose(rounded[0], at_once, rtol=1e-6)
    assert not np.allclose(rounded[0], plain[0], rtol=1e-2)
    assert not compiled or rounded[1] != plain[1]
    undo(model)
    for found, expected in zip(results(), plain, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow alone makes variables in a trace")
def test_a_model_that_is_built_in_its_first_step() -> None:
    layer = keras.layers.Dense(3, kernel_initializer="ones")
    model, optimizer = emulate(keras.Sequential([layer]), "adam", "swalp8", uncovered="ignore")
    model.compile(optimizer, "mse", jit_compile=True)
    model.train_on_batch(X, Y)
    assert layer.kernel.shape == X.shape[1:] + Y.shape[1:]
    assert int(optimizer.iterations) == 1
    assert np.all(np.abs(keras.ops.convert_to_numpy(layer.kernel) - 1) < 0.01)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow traces what makes variables twice")
def test_a_loss_is_scaled_by_what_the_optimizer_has_then() -> None:
    """As long as the scale is too great it falls, which takes the second trace."""
    model, optimizer = emulate(network(), keras.optimizers.SGD(0.01), "mxfp8", seed=0)
    scaled = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0**127)
    model.compile(scaled, "mse", jit_compile=False)
    model.fit(X, 8 * Y, 4, epochs=4, verbose=0)
    assert 0 < int(scaled.iterations) < 20


def test_a_model_that_was_compiled_has_to_be_compiled_with_the_rounded_optimizer() -> None:
    """It would go on with the optimizer that it has, which rounds no weight."""
    model = network()
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0)
    model, optimizer = emulate(model, keras.optimizers.SGD(0.01), "fp8_ibm", seed=0)
    with pytest.raises(ValueError, match=r"call `compile\(\)`"):
        model.fit(X, Y, verbose=0)
    model.compile(optimizer, "mse")
    model.fit(X, Y, verbose=0)


def test_without_an_optimizer_it_stays_compiled() -> None:
    model = network()
    model.compile("sgd", "mse")
    model, _ = emulate(model, None, "mxfp8", seed=0)
    model.evaluate(X, Y, verbose=0)
