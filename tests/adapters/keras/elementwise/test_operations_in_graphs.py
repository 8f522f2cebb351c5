"""Operations that a functional model calls outside of its layers are rounded."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers, ops
from qemu_swalp_keras import disabled, emulate, unquantize_elementwise, unquantize_gemms

from qemu_swalp import add, multiply, quantize
from qemu_swalp.training import Recipe
from tests.helpers.keras_native import normal, numpy, same

PRODUCT, SUM = "fixed<8,3>", "float<5,4>/nearest_even"
RECIPE = Recipe(operands={"input": PRODUCT}, elementwise=SUM)
X, W = normal((2, 3, 4), 1), np.round(normal((4, 4), 2) * 16) / 16
"""The weight of few bits: sums are exact, whatever their order."""


def build(nested=False):
    x = layers.Input((3, 4))
    y = ops.matmul(x, ops.swapaxes(x, 1, 2))
    y = layers.Dense(4, use_bias=False, name="fc")(y + y * 3.0)
    inner = keras.Model(x, y, name="inner")
    if not nested:
        return inner
    z = layers.Input((3, 4))
    return keras.Model(z, inner(z) + 1.0, name="outer")


def by_hand(x, w):
    a = quantize(x, PRODUCT)
    y = a @ np.swapaxes(a, 1, 2)
    y = add(y, multiply(y, np.float32(3.0), SUM), SUM)
    return quantize(y, PRODUCT) @ w


def fresh(nested=False):
    model = build(nested)
    model.set_weights([W[:3]])
    return emulate(model, None, RECIPE).model


def test_operations_and_layers_each_by_their_own_policy():
    model = fresh()
    same(model(X), by_hand(X, W[:3]))
    same(fresh(nested=True)(X), add(by_hand(X, W[:3]), np.float32(1.0), SUM))
    plain = unquantize_elementwise(unquantize_gemms(model))(X)
    assert not np.array_equal(numpy(plain), by_hand(X, W[:3]))


def test_it_is_saved_cloned_and_switched_off(tmp_path):
    model = fresh(nested=True)
    expected = numpy(model(X))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    same(loaded(X), expected)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    same(clone(X), expected)
    with disabled(model):
        plain = build(nested=True)
        plain.set_weights([W[:3]])
        same(model(X), numpy(plain(X)))


def test_a_report_and_an_override_of_the_models_own_operations():
    model = build()
    own = {"inner/operands": None, "inner/elementwise": None}
    emulation = emulate(model, None, dataclasses.replace(RECIPE, overrides=own))
    y = numpy(emulation.model(X))
    assert "two activations: numpy.matmul" in str(emulation)
    gram = X @ np.swapaxes(X, 1, 2)
    kernel = numpy(model.get_layer("fc").kernel)
    np.testing.assert_allclose(y, quantize(gram + gram * 3, PRODUCT) @ kernel, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="products of 'fc' are rounded already"):
        emulate(model, None, RECIPE)
