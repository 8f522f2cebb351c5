"""SWALP's learning rates are those of the core's schedule."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from qemu_swalp_keras import SGD, SWALPSchedule
from qemu_swalp_keras.backend import synchronize

import qemu_swalp.training as core
from tests.adapters.keras.conftest import data, network

SHAPES = [
    {"start": 200, "swa_learning_rate": 0.01},
    {"start": 200},
    {"start": 0, "swa_learning_rate": 0.02},
    {"start": 7, "decay_start": 0.0, "decay_end": 1.0, "floor": 0.5},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rates_are_those_of_the_core(shape: dict[str, float]) -> None:
    ours, theirs = SWALPSchedule(0.05, **shape), core.SWALPSchedule(0.05, **shape)
    steps = range(0, 300, 3)
    # The core computes in float64, a graph in float32.
    np.testing.assert_allclose(
        [float(ours(keras.ops.convert_to_tensor(t))) for t in steps],
        [theirs(t) for t in steps],
        rtol=1e-5,
    )


def test_survives_its_config_and_drives_an_optimizer() -> None:
    schedule = SWALPSchedule(0.5, 8, 0.25, decay_start=0.25, decay_end=0.5, floor=0.125)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert again.get_config() == schedule.get_config()
    model = network()
    model.compile(SGD(schedule), loss="mse")
    rates = []

    class Log(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
            synchronize(self.model)
            rates.append(float(self.model.optimizer.learning_rate))

    model.fit(*data(), batch_size=8, epochs=2, callbacks=[Log()], verbose=0)
    assert rates == [0.5, 0.5, 0.5, 0.28125, *[0.0625] * 4, *[0.25] * 8]
    assert float(model.optimizer.learning_rate) == 0.25
