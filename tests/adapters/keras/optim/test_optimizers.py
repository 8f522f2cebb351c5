"""Every kind of optimizer of Keras, quantized: its bits are those of rounding by hand around the
plain one.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
from qemu_swalp_keras import QuantizedOptimizer

from qemu_swalp.training import Recipe
from tests.adapters.keras.conftest import bits, on_grid
from tests.helpers.keras_native import BACKEND, MODES
from tests.helpers.keras_optimizers import (
    GRADIENTS,
    KINDS,
    by_hand,
    quantized,
    quantizer_of,
    slots,
    state,
    stepper,
)

XLA = {
    "tensorflow": ["SGD-accumulator"],
    "jax": ["SGD-nesterov", "SGD-accumulator", "Adam", "RMSprop-centered"],
    "torch": [],
}[BACKEND]
COMPILED = [(kind, "graph") for kind in KINDS if "graph" in MODES] + [(kind, "xla") for kind in XLA]


@pytest.mark.parametrize("kind", KINDS)
def test_eager_steps_give_the_bits_of_rounding_by_hand(kind: str) -> None:
    optimizer, held = quantized(kind)
    step = stepper(optimizer, held, "eager")
    for gradients, expected in zip(GRADIENTS, by_hand(kind), strict=True):
        step(gradients)
        got = state(optimizer, held)
        assert got.keys() == expected.keys()
        assert [
            name for name in got if not np.array_equal(bits(got[name]), bits(expected[name]))
        ] == []


@pytest.mark.parametrize(("kind", "mode"), COMPILED)
def test_compiled_steps_leave_weights_and_state_on_their_grids(kind: str, mode: str) -> None:
    """TensorFlow's graphs give the bits of eager steps; XLA contracts products and sums, so there
    only grids hold.
    """
    optimizer, held = quantized(kind)
    recipe = KINDS[kind][1]
    step = stepper(optimizer, held, mode)
    for gradients, expected in zip(GRADIENTS, by_hand(kind), strict=True):
        step(gradients)
        for v in held:
            assert on_grid(v, recipe.weight)
            for name, slot in slots(optimizer, v).items():
                quantizer = (
                    recipe.accumulator
                    if name == "qemu_accumulator"
                    else quantizer_of(name, recipe)[1]
                )
                assert quantizer is None or on_grid(slot, quantizer), name
        got = state(optimizer, held)
        assert all(np.allclose(got[v.name], expected[v.name], atol=0.05) for v in held)
        assert (
            mode == "xla"
            or [n for n in got if not np.array_equal(bits(got[n]), bits(expected[n]))] == []
        )
    assert int(optimizer.iterations) == len(GRADIENTS)


def test_nothing_is_rounded_without_a_quantizer() -> None:
    make, _ = KINDS["Adam"]
    runs = []
    for wrap in (lambda inner: inner, lambda inner: QuantizedOptimizer(inner, Recipe())):
        held = [keras.Variable(np.float32([0.3, -0.7]), name="w")]
        optimizer = wrap(make())
        optimizer.build(held)
        step = stepper(optimizer, held, "eager")
        step([np.float32([0.1, 0.2])])
        runs.append(bits(held[0]))
    assert np.array_equal(*runs)
