"""Without a seed, each optimizer and model draws random bits of its own, which configs and copies
keep.
"""

import keras
import numpy as np
import pytest
from qemu_swalp_keras import (
    SGD,
    QuantizedOptimizer,
    emulate,
    quantize_activations,
    quantize_elementwise,
    quantize_gemms,
)
from qemu_swalp_keras.layers.quantize import Quantize

from qemu_swalp.training import Recipe, restart_seeds

RECIPE = Recipe(weight="fixed<8,4>/stochastic", activation="fixed<8,2>/stochastic")
X = np.linspace(-1, 1, 400, dtype="float32").reshape(100, 4)


def model():
    layers = [keras.layers.Input((4,)), keras.layers.ReLU()]
    return quantize_activations(keras.Sequential(layers), RECIPE)


def products():
    layer = keras.layers.Dense(3, kernel_initializer="ones")
    whole = keras.Sequential([keras.layers.Input((4,)), layer])
    return quantize_gemms(whole, Recipe(operands={"input": "fixed<8,2>/stochastic"}))


def elementwise():
    whole = keras.Sequential([keras.layers.Input((4,)), keras.layers.Softmax()])
    return quantize_elementwise(whole, Recipe(elementwise="fixed<8,6>/stochastic"))


def emulated():
    recipe = Recipe(weight="bf16/stochastic", operands={"input": "fixed<8,2>/stochastic"})
    layer = keras.layers.Dense(3, kernel_initializer="ones")
    return emulate(keras.Sequential([keras.layers.Input((4,)), layer]), "sgd", recipe).model


def outputs(of):
    return keras.ops.convert_to_numpy(of(X)).tolist()


def seeds():
    return [
        QuantizedOptimizer("sgd", RECIPE).seed,
        SGD(0.1, recipe=RECIPE).seed,
        Quantize("bf16", place=1).seed,
    ]


@pytest.mark.parametrize("make", [model, products, elementwise, emulated])
def test_two_differ_and_the_next_run_has_the_same(make):
    first, second = outputs(make()), outputs(make())
    assert first != second
    restart_seeds()
    assert [outputs(make()), outputs(make())] == [first, second]


def test_what_was_refused_draws_no_seed():
    whole = products()
    first = whole.layers[0].dtype_policy.products.seed
    with pytest.raises(ValueError, match="rounded already"):
        quantize_gemms(whole, Recipe(operands={"input": "bf16"}))
    second = products().layers[0].dtype_policy.products.seed
    restart_seeds()
    assert [products().layers[0].dtype_policy.products.seed for _ in range(2)] == [first, second]


def test_optimizers_and_layers_too():
    made = seeds() + seeds()
    restart_seeds()
    assert made == seeds() + seeds()
    assert made[0] == made[2] == 0
    assert len(set(made[:2] + made[3:5])) == 4


def test_configs_and_clones_keep_the_seed():
    model()
    rounded, optimizer = model(), QuantizedOptimizer("sgd", RECIPE)
    clone = keras.models.clone_model(rounded)
    assert outputs(clone) == outputs(rounded)
    other = QuantizedOptimizer.from_config(optimizer.get_config())
    assert other.seed == optimizer.seed


@pytest.mark.parametrize("make", [model, products])
def test_a_saved_model_goes_on_with_its_seed(make, tmp_path):
    make()
    rounded = make()
    rounded.save(tmp_path / "model.keras")
    restart_seeds()
    assert outputs(keras.models.load_model(tmp_path / "model.keras")) == outputs(rounded)
