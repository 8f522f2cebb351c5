"""The optimizer within a quantized one goes on training where that one was."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import optimizers as o
from qemu_swalp_keras import SGD, QuantizedOptimizer, emulate, unquantize_optimizer

from qemu_swalp.training import Recipe
from tests.adapters.keras.conftest import BACKEND, apply, data, network, same
from tests.helpers.keras_optimizers import GRADIENTS, KINDS, quantized, stepper

RECIPE = Recipe(weight="fixed<8,6>", gradient="e5m2", accumulator="bf16")


def values(optimizer: Any, held: Any) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(v)) for v in [*held, *optimizer.variables]]


@pytest.mark.parametrize("kind", ["SGD-nesterov", "SGD-accumulator", "Adam", "RMSprop-centered"])
def test_it_goes_on_as_a_plain_one_with_that_state(kind: str) -> None:
    optimizer, held = quantized(kind)
    for gradients in GRADIENTS[:2]:
        apply(optimizer, gradients, held)
    inner = unquantize_optimizer(optimizer)
    plain = KINDS[kind][0]()
    others = [keras.Variable(v, name=v.name) for v in held]
    plain.build(others)
    state = values(inner, [])
    assert len(state) == len(plain.variables)
    for variable, value in zip(plain.variables, state, strict=True):
        variable.assign(value)
    for gradients in GRADIENTS[2:]:
        apply(inner, gradients, held)
        apply(plain, gradients, others)
    assert same(values(inner, held), values(plain, others))
    assert int(inner.iterations) == len(GRADIENTS)


def test_fit_goes_on_with_it() -> None:
    model, x_y = network(), data()
    model.compile(QuantizedOptimizer(o.Adam(0.01), RECIPE, seed=1), "mse")
    model.fit(*x_y, epochs=2, verbose=0)
    model.compile(unquantize_optimizer(model.optimizer), "mse")
    before = model.get_weights()
    model.fit(*x_y, epochs=1, verbose=0)
    assert int(model.optimizer.iterations) == 6
    assert not same(model.get_weights(), before)
    off_grid = [w for w in model.get_weights() if not np.array_equal(w * 64, np.round(w * 64))]
    assert off_grid


def test_loss_scaling_stays_around_it() -> None:
    held = [keras.Variable(np.float32([1.0]))]
    scaled = o.LossScaleOptimizer(QuantizedOptimizer(o.SGD(0.1), RECIPE), initial_scale=8.0)
    scaled.build(held)
    mode = "xla" if BACKEND == "jax" else "eager"  # where Keras cannot step eagerly on JAX
    stepper(scaled, held, mode)([np.float32([8.0])])
    assert unquantize_optimizer(scaled) is scaled
    step = stepper(scaled, held, mode)
    step([np.float32([8.0])])
    assert isinstance(scaled.inner_optimizer, o.SGD)
    assert int(scaled.iterations) == 2
    before = values(scaled, held)
    step([np.float32([np.inf])])
    assert same(values(scaled, held)[:1], before[:1])
    assert float(scaled.dynamic_scale) == 4.0


def test_16_bit_weights() -> None:
    held = [keras.Variable(np.float32([1.0, 2.0]), dtype="bfloat16", name="w")]
    optimizer = QuantizedOptimizer(o.SGD(0.5, momentum=0.5), Recipe(weight="e4m3fn"))
    apply(optimizer, [np.float32([1.0, 1.0])], held)
    inner = unquantize_optimizer(optimizer)
    apply(inner, [np.float32([1.0, 1.0])], held)
    # velocities -0.5, then -0.25 - 0.5
    assert keras.ops.convert_to_numpy(held[0]).astype("float32").tolist() == [-0.25, 0.75]


def test_before_it_is_built() -> None:
    inner = unquantize_optimizer(QuantizedOptimizer("sgd", RECIPE))
    held = [keras.Variable(np.float32([0.3]))]
    apply(inner, [np.float32([1.0])], held)
    assert keras.ops.convert_to_numpy(held[0])[0] == np.float32(0.3) - np.float32(0.01)


def test_what_cannot_be_undone_and_what_was() -> None:
    optimizer = QuantizedOptimizer("sgd", RECIPE)
    unquantize_optimizer(optimizer)
    for wrong in (optimizer, SGD(0.1), o.SGD(0.1), None):
        with pytest.raises(ValueError, match="must be a QuantizedOptimizer"):
            unquantize_optimizer(wrong)
    with pytest.raises(ValueError, match="unquantize_optimizer was called on this optimizer"):
        apply(optimizer, [np.float32([1.0])], [keras.Variable(np.float32([0.3]))])


def test_not_within_a_swap() -> None:
    held = [keras.Variable(np.float32([0.3]))]
    optimizer = QuantizedOptimizer("sgd", RECIPE, swa_start=0)
    apply(optimizer, [np.float32([1.0])], held)
    with optimizer.swap(), pytest.raises(ValueError, match="An average stands"):
        unquantize_optimizer(optimizer)
    unquantize_optimizer(optimizer)


def test_an_emulation_is_removed() -> None:
    recipe = Recipe(
        weight="fixed<8,6>", momentum="e4m3fn", activation="e4m3fn", operands={"weight": "fp16"}
    )
    given, (x, y) = network(), data()
    emulation = emulate(given, o.SGD(0.1, momentum=0.5), recipe)
    emulation.model.compile(emulation.optimizer, "mse")
    emulation.model.fit(x, y, verbose=0, shuffle=False)
    model, optimizer = emulation.remove()
    assert model is given
    twin = network()
    twin.set_weights(model.get_weights())
    assert same([model.predict(x, verbose=0)], [twin.predict(x, verbose=0)])
    plain = o.SGD(0.1, momentum=0.5)
    plain.build(twin.trainable_variables)
    plain.set_weights(values(optimizer, []))
    for each, its in ((model, optimizer), (twin, plain)):
        each.compile(its, "mse")
        each.fit(x, y, verbose=0, shuffle=False)
    assert same(model.get_weights(), twin.get_weights())
