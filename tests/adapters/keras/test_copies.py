"""Copies of an emulated model, and ways of compiling it, round as it does."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from qemu_swalp_keras import emulate

from qemu_swalp.training import Recipe
from tests.adapters.keras.conftest import same
from tests.helpers import keras_exact as exact
from tests.helpers.keras_native import numpy

FORM = "fixed<8,4>/stochastic"
RECIPE = Recipe(
    weight=FORM,
    momentum="bfp<8>/stochastic",
    activation=FORM,
    error="fixed<8,6>/stochastic",
    operands=dict.fromkeys(("input", "weight", "error"), FORM),
    elementwise={"forward.multiply": FORM},
)
"""With the data of `keras_exact` all sums are exact."""


def emulated(**arguments: Any) -> keras.Model:
    """Arguments are those of `compile`."""
    inputs = keras.Input((exact.INPUTS,))
    hidden = keras.layers.Rescaling(0.5)(keras.layers.Dense(4, name="hidden")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(exact.OUTPUTS, name="head")(hidden))
    rng = np.random.default_rng(5)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    inner = keras.optimizers.SGD(2.0**-3, 0.5)
    model, optimizer = emulate(
        model, inner, RECIPE, seed=4, average={"start": 1, "finalize": False}
    )
    model.compile(optimizer, "mse", **arguments)
    optimizer.build(model.trainable_variables)  # TensorFlow eagerly takes a gradient before it
    return model


def fitted(model: keras.Model) -> keras.Model:
    rows = slice(0, 3 * exact.BATCH)
    model.fit(exact.X[rows], exact.Y[rows], batch_size=exact.BATCH, shuffle=False, verbose=0)
    return model


def state(model: keras.Model) -> list[np.ndarray]:
    return [np.array(numpy(v)) for v in [*model.variables, *model.optimizer.variables]]


WAYS: list[dict[str, Any]] = [{"jit_compile": compiled} for compiled in (False, "auto", True)]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_compiled_or_not(way: dict[str, Any]) -> None:
    assert same(state(fitted(emulated(**way))), state(fitted(emulated(run_eagerly=True))))


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize("way", COPIES)
def test_copies_go_on_as_the_model(way: str) -> None:
    model = fitted(emulated(run_eagerly=True))
    before = state(model)
    again = COPIES[way](model)
    fitted(again)
    assert same(state(model), before)
    assert same(state(fitted(model)), state(again))


def test_a_clone_rounds_as_an_emulated_model_that_is_new() -> None:
    model, new = fitted(emulated(run_eagerly=True)), emulated(run_eagerly=True)
    clone = keras.models.clone_model(model)
    clone.set_weights(new.get_weights())
    for training in (True, False):
        y, expected = (numpy(each(exact.X, training=training)) for each in (clone, new))
        assert np.array_equal(y, expected)
    assert not np.array_equal(model.get_weights()[0], clone.get_weights()[0])
