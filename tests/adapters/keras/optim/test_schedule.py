"""The learning rates of SWALP and SWA are those of the core's schedules."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from qemu_swalp_keras import SGD, SWALPSchedule, SWASchedule
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


@pytest.mark.parametrize("shape", [(7, 5), (0, 3), (4, 1), (1, 100)], ids=str)
def test_cyclic_rates_are_those_of_the_core_to_the_bit(shape: tuple[int, int]) -> None:
    arguments = 0.3, *shape, 0.1, 0.03
    ours, theirs = SWASchedule(*arguments), core.SWASchedule(*arguments)
    for step in range(30):
        rate = keras.ops.convert_to_numpy(ours(keras.ops.convert_to_tensor(step)))
        assert rate.dtype == np.float32
        assert rate == np.float32(theirs(step))
    assert ours.policy(nonfinite="skip") == theirs.policy(nonfinite="skip")


def test_a_cyclic_schedule_drives_an_optimizer_and_survives_its_config() -> None:
    schedule = SWASchedule(0.5, 3, 4, high=0.25, low=0.0625)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert type(again) is SWASchedule
    assert again.get_config() == schedule.get_config()
    model = network()
    model.compile(SGD(again), loss="mse")
    rates = []

    class Log(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
            synchronize(self.model)
            rates.append(float(self.model.optimizer.learning_rate))

    model.fit(*data(), batch_size=8, callbacks=[Log()], verbose=0)
    assert rates == [0.5, 0.5, 0.5, 0.203125, 0.15625, 0.109375, 0.0625, 0.203125]
    with pytest.raises(ValueError, match="low at most high"):
        SWASchedule(0.5, 3, 4, high=0.01, low=0.1)
