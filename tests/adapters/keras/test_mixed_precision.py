"""Mixed precision: loss scaling sees each overflow, whatever the formats of the errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops, optimizers as o
from qemu_swalp_keras import SGD, QuantizedOptimizer, SwapAverage, emulate, quantize

from qemu_swalp.training import Recipe
from tests.adapters.keras.conftest import data, network, on_grid, same
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


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"], indirect=True)
def test_training_goes_on_from_the_right_scale(policy: str) -> None:
    recipe = replace(MODEL, weight=OPTIMIZER.weight, gradient=OPTIMIZER.gradient)
    average = {"start": 0, "finalize": False}
    model, optimizer = emulate(network(), o.SGD(0.1), recipe, average=average)
    model.compile(optimizer, "mse")
    scaled = isinstance(model.optimizer, o.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    losses = model.fit(*data(), 8, 6, 0, [SwapAverage()], shuffle=False).history["loss"]
    assert losses[-1] < losses[0]
    assert all(on_grid(v, recipe.weight) for v in model.trainable_variables)
    assert optimizer.n_averaged == int(model.optimizer.iterations) > 30


def test_the_other_order_is_refused_with_the_remedy() -> None:
    scaled = o.LossScaleOptimizer(o.SGD(0.1))
    with pytest.raises(ValueError, match=r"LossScaleOptimizer\(QuantizedOptimizer\("):
        QuantizedOptimizer(scaled, OPTIMIZER)
