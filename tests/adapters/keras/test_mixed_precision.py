"""Mixed precision: loss scaling sees each overflow, whatever the formats of the errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops, optimizers as o
from qemu_swalp_keras import SGD, Quantize, QuantizedOptimizer, SwapAverage, emulate, quantize

from qemu_swalp.training import Recipe, recipe
from tests.adapters.keras.conftest import BACKEND, data, network, on_grid, same
from tests.helpers.keras_native import numpy, pull_back

SATURATING = ["e4m3fn", "fixed<8,4>", "e2m1fn"]
OPTIMIZER = Recipe(weight="fixed<8,6>/stochastic", gradient="e4m3fn")
MODEL = Recipe(error="e4m3fn", operands={"error": "e4m3fn"})


@pytest.fixture
def policy(request: Any) -> Iterator[str]:
    keras.mixed_precision.set_global_policy(request.param)
    try:
        yield request.param
    finally:
        keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize("form", SATURATING)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_errors_in_float16_keep_infinities_and_nan(form: str, dtype: str) -> None:
    x = ops.ones(4, dtype)
    upstream = ops.convert_to_tensor(np.array([np.inf, -np.inf, np.nan, 300.0], dtype))
    _, error = pull_back(lambda x: quantize(x, None, backward=form), x, upstream)
    error = numpy(error)
    assert np.isnan(error[2])
    assert np.isfinite(error[3])
    assert np.isinf(error[:2]).all() == (dtype == "float16")


@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
@pytest.mark.parametrize("native", [False, True])
def test_no_step_is_made_with_an_overflow(policy: str, native: bool) -> None:
    """Four batches, each with infinities in the errors, which e4m3fn alone would make 448."""
    optimizer = SGD(0.1, recipe=OPTIMIZER) if native else QuantizedOptimizer("sgd", OPTIMIZER)
    model, _ = emulate(network(), None, MODEL)
    model.compile(o.LossScaleOptimizer(optimizer, initial_scale=2.0**60), "mse")
    model.optimizer.build(model.trainable_variables)
    before = model.get_weights()
    model.fit(*data(), batch_size=16, epochs=1, verbose=0)
    scale = float(numpy(model.optimizer.dynamic_scale))
    assert (int(model.optimizer.iterations), scale) == (0, 2.0**56)
    changing = [i for i, w in enumerate(model.weights) if w.trainable]
    assert same(*([weights[i] for i in changing] for weights in (before, model.get_weights())))


HIDING = {
    "errors": MODEL,
    "elementwise": Recipe(elementwise="fixed<8,4>"),
    "elementwise, stochastic": Recipe(elementwise="e4m3fn/stochastic"),
    "sums": Recipe(operands={"input": "e4m3fn"}, sums="e4m3fn"),
    "delayed": recipe("fp8_delayed"),
}
"""Recipes whose every format saturates in the backward pass."""


@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
@pytest.mark.parametrize("last", ["float16", "float32"])
@pytest.mark.parametrize("name", HIDING)
def test_no_rounding_hides_an_overflow(policy: str, name: str, last: str) -> None:
    """Whether it comes about in float16, or in float32 (the loss, a last layer) as a number that
    float16 cannot hold. No bias passes by what is rounded.
    """
    own = {"dtype": "float32"} if last == "float32" else {}
    model = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(5, "gelu", use_bias=False),
            keras.layers.LayerNormalization(center=False, scale=False),
            keras.layers.Dense(3, use_bias=False, **own),
        ]
    )
    model, _ = emulate(model, None, HIDING[name], seed=1)
    optimizer = o.LossScaleOptimizer(QuantizedOptimizer("sgd", OPTIMIZER), initial_scale=2.0**60)
    model.compile(optimizer, "mse", run_eagerly=BACKEND == "tensorflow")
    x, y = data(16)
    model.train_on_batch(x, y)
    assert (int(optimizer.iterations), float(numpy(optimizer.dynamic_scale))) == (0, 2.0**59)


def test_a_model_in_float32_is_rounded_as_ever() -> None:
    """Its formats saturate: no loss is scaled for it."""
    x = ops.ones(2)
    layer = Quantize(error="e4m3fn", place=1)
    for scaled, expected in ((False, [448.0, 448.0]), (True, [1e5, 448.0])):
        layer = Quantize.from_config({**layer.get_config(), "scaled": scaled})
        _, error = pull_back(layer, x, ops.convert_to_tensor(np.float32([1e5, 500.0])))
        assert numpy(error).tolist() == expected


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"], indirect=True)
def test_training_goes_on_from_the_right_scale(policy: str) -> None:
    rounding = replace(MODEL, weight=OPTIMIZER.weight, gradient=OPTIMIZER.gradient)
    average = {"start": 0, "finalize": False}
    model, optimizer = emulate(network(), o.SGD(0.1), rounding, average=average)
    model.compile(optimizer, "mse")
    scaled = isinstance(model.optimizer, o.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    losses = model.fit(*data(), 8, 6, 0, [SwapAverage()], shuffle=False).history["loss"]
    assert losses[-1] < losses[0]
    assert all(on_grid(v, rounding.weight) for v in model.trainable_variables)
    assert optimizer.n_averaged == int(model.optimizer.iterations) > 30


def test_the_other_order_is_refused_with_the_remedy() -> None:
    scaled = o.LossScaleOptimizer(o.SGD(0.1))
    with pytest.raises(ValueError, match=r"LossScaleOptimizer\(QuantizedOptimizer\("):
        QuantizedOptimizer(scaled, OPTIMIZER)
