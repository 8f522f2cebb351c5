"""Operators that write over a tensor round as others do, and have their gradients."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from qemu_swalp_keras import quantize_elementwise

from qemu_swalp.training import Recipe
from tests.helpers.keras_native import BACKEND, Calls, normal, numpy
from tests.helpers.keras_training import gradients

RECIPE = Recipe(elementwise="float<5,4>/nearest_even")


def in_place(x):
    y = ops.exp(x)
    y *= x
    y += y
    y -= 0.5
    return y


def apart(x):
    y = ops.exp(x) * x
    return y + y - 0.5


def test_values_and_gradients():
    """PyTorch keeps for the backward what they write over."""
    x, g = normal((2, 3)), normal((2, 3), 1)
    found = []
    for function in (in_place, apart):
        layer = quantize_elementwise(Calls(function), RECIPE)
        found.append(gradients(layer, [], g, x))
    (y, (dx,), _), (expected, (of_x,), _) = found
    assert np.array_equal(y, expected)
    assert np.array_equal(dx, of_x)


def add(y):
    y += 0.5


def multiply(y):
    y *= 0.55


def divide(y):
    y /= 3


def subtract_truth(y):
    y -= True


def power(y):
    y **= 0.5


@pytest.mark.skipif(BACKEND != "torch", reason="the others have no such operators")
@pytest.mark.parametrize("dtype", ["int32", "float32"])
@pytest.mark.parametrize("write", [add, multiply, divide, subtract_truth, power])
def test_what_pytorch_refuses_is_refused_by_its_words(write, dtype):
    def function(x):
        y = ops.cast(ops.abs(x) * 8, dtype)
        write(y)
        return y

    words, layer = [], Calls(function)
    for given in (layer, quantize_elementwise(layer, RECIPE)):
        try:
            given(normal((2, 3)))
            words.append("")
        except RuntimeError as error:
            words.append(str(error))
    assert words[0] == words[1]
    assert bool(words[0]) is (dtype == "int32" or write is subtract_truth)


@pytest.mark.skipif(BACKEND != "torch", reason="the others have no such operators")
def test_what_is_written_keeps_its_dtype():
    x = normal((2, 3))
    factor = ops.cast(normal((3,), 1), "float64")

    def function(x):
        y = x * 1
        written = y
        y *= factor
        return written

    y = quantize_elementwise(Calls(function), RECIPE)(x)
    apart = quantize_elementwise(Calls(lambda x: x * 1 * factor), RECIPE)(x)
    assert "float32" in str(y.dtype)
    assert "float64" in str(apart.dtype)
    assert np.array_equal(numpy(y), numpy(apart))


@pytest.mark.skipif(BACKEND != "torch", reason="the others have no such operators")
def test_a_recurrent_layer_that_drops_trains():
    """Keras's cells multiply by dropout's masks in place."""
    model = keras.Sequential([layers.LSTM(2, dropout=0.5, recurrent_dropout=0.5)])
    quantize_elementwise(model, RECIPE)
    model.compile("sgd", "mse", run_eagerly=True)
    assert np.isfinite(model.fit(normal((2, 2, 3)), normal((2, 2)), verbose=0).history["loss"])
