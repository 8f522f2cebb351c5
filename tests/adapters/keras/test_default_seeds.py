"""Without a seed, each optimizer and model draws random bits of its own, which configs and copies
keep.
"""

import keras
import numpy as np
from qemu_swalp_keras import SGD, QuantizedOptimizer, quantize_activations
from qemu_swalp_keras.layers.quantize import Quantize

from qemu_swalp.training import Recipe, restart_seeds

RECIPE = Recipe(weight="fixed<8,4>/stochastic", activation="fixed<8,2>/stochastic")
X = np.linspace(-1, 1, 400, dtype="float32").reshape(100, 4)


def model():
    layers = [keras.layers.Input((4,)), keras.layers.ReLU()]
    return quantize_activations(keras.Sequential(layers), RECIPE)


def outputs(of):
    return keras.ops.convert_to_numpy(of(X)).tolist()


def seeds():
    return [
        QuantizedOptimizer("sgd", RECIPE).seed,
        SGD(0.1, recipe=RECIPE).seed,
        Quantize("bf16", place=1).seed,
    ]


def test_two_differ_and_the_next_run_has_the_same():
    first, second = outputs(model()), outputs(model())
    assert first != second
    restart_seeds()
    assert [outputs(model()), outputs(model())] == [first, second]


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


def test_a_saved_model_goes_on_with_its_seed(tmp_path):
    model()
    rounded = model()
    rounded.save(tmp_path / "model.keras")
    restart_seeds()
    assert outputs(keras.models.load_model(tmp_path / "model.keras")) == outputs(rounded)
