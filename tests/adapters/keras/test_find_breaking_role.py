"""`find_breaking_role` through the entry points of the adapter."""

from __future__ import annotations

import keras
import numpy as np
from qemu_swalp_keras import QuantizedOptimizer, quantize_activations

from qemu_swalp.training import Recipe, find_breaking_role

RECIPE = Recipe(weight="bfp<4>/nearest_even", activation="e4m3fn/nearest_even")


def train(recipe: Recipe, seed: int) -> float:
    """Loss of a small regression under the recipe."""
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(1)]
    model = quantize_activations(keras.Sequential(layers), recipe)
    model.compile(QuantizedOptimizer(keras.optimizers.SGD(0.05), recipe), loss="mse")
    x = np.random.default_rng(seed).standard_normal((32, 4)).astype(np.float32)
    history = model.fit(x, x.sum(1, keepdims=True), epochs=2, shuffle=False, verbose=0)
    return float(history.history["loss"][-1])


def test_it_finishes() -> None:
    study = find_breaking_role(train, RECIPE, seeds=(0,), progress=False)
    assert list(study.losses) == ["nothing", "everything", "weight", "activation"]
    assert study.quantized != study.full
