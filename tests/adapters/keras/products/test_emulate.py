"""`emulate`: all sections of a recipe in one call."""

import keras
import numpy as np
import pytest
from keras import layers
from qemu_swalp_keras import (
    Quantize,
    QuantizedOptimizer,
    emulate,
    quantize_elementwise,
    unquantize_elementwise,
)

from qemu_swalp.training import Recipe
from tests.adapters.keras.conftest import on_grid
from tests.helpers.keras_native import normal, numpy

ALL = Recipe(weight="fixed<8,4>", activation="fixed<8,3>", operands={"input": "fixed<8,4>"})


def build(activation="relu"):
    return keras.Sequential(
        [layers.Input((4,)), layers.Dense(5, activation, name="fc"), layers.Dense(3, name="head")]
    )


def test_all_sections_are_applied_and_reported():
    emulation = emulate(build(), "sgd", ALL, exclude="head", average={"start": 1})
    model, optimizer = emulation
    assert isinstance(optimizer, QuantizedOptimizer)
    assert optimizer.n_averaged == 0
    model.compile(optimizer, "mse", run_eagerly=True)
    model.fit(normal((8, 4)), normal((8, 3), 1), batch_size=4, verbose=0)
    fc, head = model.get_layer("fc"), model.get_layer("head")
    assert sum(isinstance(layer, Quantize) for layer in model.layers) == 1
    assert not np.array_equal(head.kernel, np.round(np.asarray(head.kernel) * 16) / 16)
    lines = str(emulation).splitlines()
    assert any(line.startswith("fc ") and "forward.input" in line for line in lines)
    assert any(line.startswith("head") and "excluded: numpy.matmul" in line for line in lines)
    assert any(line.startswith("optimizer") and "weight" in line for line in lines)
    assert fc.name in str(emulation)


def test_elementwise_operations_are_rounded_and_reported():
    model, optimizer = emulation = emulate(build("gelu"), "sgd", Recipe(elementwise="e4m3fn"))
    assert optimizer == "sgd"
    x = normal((8, 4))
    plain = build("gelu")
    plain.set_weights(model.get_weights())
    assert not np.array_equal(numpy(plain(x)), numpy(model(x)))
    lines = [line.split()[1:3] for line in str(emulation).splitlines()]
    assert lines.count(["forward.sum", "e4m3fn"]) == 3  # two layers, the loss
    with pytest.raises(ValueError, match="elementwise operations of 'fc' are rounded already"):
        quantize_elementwise(model, Recipe(elementwise="bf16"))
    np.testing.assert_array_equal(numpy(unquantize_elementwise(model)(x)), numpy(plain(x)))


def test_a_preset_by_name():
    model, optimizer = emulate(build(), "sgd", "mxfp8")
    model.compile(optimizer, "mse", run_eagerly=True)
    model.fit(normal((8, 4)), normal((8, 3), 1), verbose=0)


def test_what_cannot_be_applied_raises_and_changes_nothing():
    class Own(keras.Model):
        def call(self, x):
            return x

    model = build()
    policies = [layer.dtype_policy for layer in model.layers]
    for arguments, kind, words in (
        ((model, "sgd", Recipe()), ValueError, "the recipe is empty"),
        ((model, None, ALL), ValueError, "pass the optimizer"),
        ((3, "sgd", ALL), TypeError, "model must be a Keras model"),
        ((Own(name="own"), "sgd", ALL), ValueError, "subclassed model 'own' are not rounded"),
        ((model, 7, ALL), Exception, "optimizer"),
    ):
        with pytest.raises(kind, match=words):
            emulate(*arguments)
    with pytest.raises(ValueError, match="'haed' matches none of 3 names"):
        emulate(model, "sgd", ALL, exclude="haed")
    with pytest.raises(ValueError, match="average takes start"):
        emulate(model, "sgd", ALL, average={"begin": 3})
    with pytest.raises(TypeError, match="average must be True, False or a mapping"):
        emulate(model, "sgd", ALL, average=100)
    with pytest.raises(ValueError, match="an average counts the optimizer's updates; pass"):
        emulate(model, None, "mxfp8", average=True)
    assert [layer.dtype_policy for layer in model.layers] == policies


@pytest.mark.parametrize(
    ("average", "averages"), [(True, True), ({}, True), ({"cycle": 2}, True), (None, False)]
)
def test_an_average_starts_at_once_where_it_does_not_say(average, averages):
    _, optimizer = emulate(build(), "sgd", ALL, average=average)
    assert optimizer.averages == averages


def test_weights_are_on_the_grid():
    model, optimizer = emulate(build(), "sgd", ALL)
    model.compile(optimizer, "mse", run_eagerly=True)
    model.fit(normal((8, 4)), normal((8, 3), 1), verbose=0)
    assert all(on_grid(v, ALL.weight) for v in model.trainable_variables)
