"""Operators that write over a tensor round as others do, and have their gradients."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from qemu_swalp_keras import quantize_elementwise

from qemu_swalp.training import Recipe
from tests.helpers.keras_native import BACKEND, normal
from tests.helpers.keras_training import gradients

RECIPE = Recipe(elementwise="float<5,4>/nearest_even")


class Calls(layers.Layer):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, x):
        return self.function(x)


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


@pytest.mark.skipif(BACKEND != "torch", reason="the others have no such operators")
def test_a_recurrent_layer_that_drops_trains():
    """Keras's cells multiply by dropout's masks in place."""
    model = keras.Sequential([layers.LSTM(2, dropout=0.5, recurrent_dropout=0.5)])
    quantize_elementwise(model, RECIPE)
    model.compile("sgd", "mse", run_eagerly=True)
    assert np.isfinite(model.fit(normal((2, 2, 3)), normal((2, 2)), verbose=0).history["loss"])
