"""`find_breaking_role` through the entry points of the adapter."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
from qemu_swalp_keras import QuantizedOptimizer, emulate, quantize_activations

from qemu_swalp.training import Recipe, find_breaking_role
from tests.adapters.keras.conftest import data, network

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


BY_LAYER = Recipe(
    weight="fixed<12,8>/nearest_even",
    operands={"forward.input": "fixed<12,6>/nearest_even"},
    overrides={
        "*hidden/kernel": Recipe(weight="fixed<2,0>/nearest_even"),
        "hidden/operands": Recipe(operands={"forward.input": "fixed<3,0>/nearest_even"}),
    },
)
"""The hidden layer's kernel is rounded to zero, and nothing else is hurt."""

PATTERNS = ("*hidden/*", "*head/*")


def train_by_layer(recipe: Recipe, seed: int) -> float:
    """Loss of a network that rounds the hidden layer too coarsely."""
    trained.append(seed)
    keras.utils.set_random_seed(seed)
    model, optimizer = emulate(network(), keras.optimizers.SGD(0.1), recipe, seed=seed)
    model.compile(optimizer, "mse", run_eagerly=True)
    x, y = data(32)
    model.fit(x, y, 8, verbose=0)
    return float(model.evaluate(x, y, verbose=0))


trained: list[int] = []


def test_the_layer_at_fault_is_found_and_a_study_resumes(tmp_path: Path) -> None:
    options = {"seeds": (0, 1), "patterns": PATTERNS, "path": tmp_path / "study", "progress": False}
    del trained[:]

    def interrupted(recipe: Recipe, seed: int) -> float:
        if len(trained) == 7:
            raise KeyboardInterrupt
        return train_by_layer(recipe, seed)

    first = find_breaking_role(interrupted, BY_LAYER, **options)
    assert [len(losses) for losses in first.losses.values()] == [2, 1, 1, 1, 1, 1]
    study = find_breaking_role(train_by_layer, BY_LAYER, **options)
    names = ["nothing", "everything", "weight", "forward.input", *PATTERNS]
    assert list(study.losses) == names
    assert len(trained) == 2 * len(names)  # none of them twice
    assert study.recovered("*hidden/*") > 0.9
    assert abs(study.recovered("*head/*")) < 0.1
    assert study.breaking == "*hidden/*"
    again = find_breaking_role(train_by_layer, BY_LAYER, **options)
    assert again == study
    assert len(trained) == 2 * len(names)
