"""16-bit variables are rounded once, from the exact float32 update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from qemu_swalp_keras import SGD, QuantizedOptimizer

from qemu_swalp.training import Recipe, TensorRandomBits, apply as round_array
from tests.adapters.keras.conftest import apply, data, same

DTYPES = {"bfloat16": "bf16", "float16": "fp16"}
RNG = np.random.default_rng(2)
INITIAL = RNG.normal(size=(6, 5)).astype("f4")
GRADIENTS = [RNG.normal(size=(6, 5)).astype("f4") for _ in range(3)]


def variable(dtype: str) -> keras.Variable:
    return keras.Variable(INITIAL, dtype=dtype, name="w")


def float32(x: Any) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(keras.ops.cast(x, "float32")))


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "SGD": lambda: keras.optimizers.SGD(0.01),
    "momentum": lambda: keras.optimizers.SGD(0.01, momentum=0.9, weight_decay=0.1),
    "Adam": lambda: keras.optimizers.Adam(0.01, clipnorm=1.0),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_optimizer(dtype: str, make: Callable[[], Any]) -> None:
    """Each step is that of the plain optimizer in float32, its weights then rounded by hand."""
    recipe = Recipe(f"{DTYPES[dtype]}/stochastic")
    narrow = variable(dtype)
    plain_variable, plain = keras.Variable(float32(narrow), name="w"), make()
    optimizer = QuantizedOptimizer(make(), recipe, seed=4)
    for step, gradient in enumerate(GRADIENTS):
        gradient = float32(keras.ops.cast(gradient, dtype))
        apply(plain, [gradient], [plain_variable])
        draw = TensorRandomBits(4, 0, step)
        plain_variable.assign(round_array(recipe.weight, float32(plain_variable), draw, "weight"))
        apply(optimizer, [keras.ops.cast(gradient, dtype)], [narrow])
        assert keras.backend.standardize_dtype(narrow.dtype) == dtype
        assert same([float32(narrow)], [float32(plain_variable)])


@pytest.mark.parametrize("dtype", DTYPES)
def test_our_sgd_is_that_of_float32(dtype: str) -> None:
    """With all that is stored on the dtype's grid, the dtype of the variable changes no number."""
    name = f"{DTYPES[dtype]}/stochastic"
    recipe = Recipe(name, momentum=name, accumulator=name)
    narrow = variable(dtype)
    wide = keras.Variable(float32(narrow), name="w")
    optimizers = [SGD(0.01, 0.9, weight_decay=0.1, recipe=recipe, seed=4) for _ in range(2)]
    for gradient in GRADIENTS:
        gradient = float32(keras.ops.cast(gradient, dtype))
        apply(optimizers[0], [keras.ops.cast(gradient, dtype)], [narrow])
        apply(optimizers[1], [gradient], [wide])
        assert same([float32(narrow)], [float32(wide)])


@pytest.mark.parametrize(
    "make",
    [lambda: SGD(1e-4, recipe="bf16_sr"), lambda: QuantizedOptimizer("sgd", "bf16_sr")],
    ids=["native", "wrapper"],
)
def test_small_updates_do_not_vanish(make: Callable[[], Any]) -> None:
    """Weights of 1 move by 1e-4 in each of 50 steps: to 0.995, where bfloat16 alone stays at 1."""
    w, optimizer = keras.Variable(np.ones(4096), dtype="bfloat16"), make()
    optimizer.learning_rate = 1e-4
    for _ in range(50):
        apply(optimizer, [np.ones(4096, "f4")], [w])
    assert abs(float32(w).mean() - 0.995) < 3e-4


def layers() -> list[Any]:
    """Of a model whose variables are bfloat16, with a constraint."""
    return [
        keras.layers.Input((4,)),
        keras.layers.Dense(5, "tanh", dtype="bfloat16", kernel_constraint="non_neg"),
        keras.layers.Dense(3, dtype="bfloat16"),
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"clipnorm": 1.0},
        {"gradient_accumulation_steps": 2},
        {"use_ema": True, "ema_overwrite_frequency": 3},
    ],
    ids=["plain", "accumulation", "ema"],
)
def test_a_model_trains_and_resumes(options: dict[str, Any], tmp_path: Any) -> None:
    inner = keras.optimizers.AdamW(0.05, **options)
    optimizer = QuantizedOptimizer(inner, "bf16_sr", swa_start=2, swa_finalize=False)
    model = keras.Sequential(layers())
    model.compile(optimizer, loss="mse")
    x, y = data()
    first = model.fit(x, y, batch_size=8, epochs=4, shuffle=False, verbose=0).history["loss"]
    assert first[-1] < first[0]
    assert {keras.backend.standardize_dtype(w.dtype) for w in model.weights} == {"bfloat16"}
    assert options.get("use_ema") or float32(model.weights[0]).min() >= 0
    assert optimizer.n_averaged == 32 // options.get("gradient_accumulation_steps", 1) - 2
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for each in (model, again):
        each.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    assert same([float32(w) for w in model.weights], [float32(w) for w in again.weights])
    assert again.optimizer.n_averaged == model.optimizer.n_averaged


def test_variables_excluded_from_weight_decay_stay_excluded() -> None:
    v, w = variable("bfloat16"), variable("bfloat16")
    inner = keras.optimizers.SGD(0.5, weight_decay=0.5)
    inner.exclude_from_weight_decay(var_list=[v])
    optimizer = QuantizedOptimizer(inner, Recipe("bf16/nearest_even"))
    apply(optimizer, [np.zeros((6, 5), "f4")] * 2, [v, w])
    assert np.array_equal(float32(v), float32(variable("bfloat16")))
    assert np.array_equal(float32(w), float32(keras.ops.cast(float32(v) * 0.75, "bfloat16")))


def test_what_is_not_rounded_stays_in_its_dtype() -> None:
    optimizer = QuantizedOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), Recipe(gradient="bf16"))
    optimizer.build([variable("bfloat16")])
    dtypes = {keras.backend.standardize_dtype(v.dtype) for v in optimizer.variables[-1:]}
    assert dtypes == {"bfloat16"}
