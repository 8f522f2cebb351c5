"""Learning-rate schedules: SWALP's and SWA's."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import keras
import numpy as np
from keras import ops

from qemu_swalp.training import SWALPSchedule as CoreSWALP, SWASchedule as CoreSWA


@keras.saving.register_keras_serializable(package="qemu_swalp")
class SWALPSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """`qemu_swalp.training.SWALPSchedule` over an optimizer's iterations.

    `learning_rate` until `decay_start`·start, then linearly down to `floor`·learning_rate at
    `decay_end`·start, held until start; from there on the constant `swa_learning_rate`.

    Parameters
    ----------
    learning_rate, swa_learning_rate : positive rates; swa_learning_rate None keeps
        `floor`·learning_rate.
    start : when averaging begins, in iterations: epochs times steps per epoch.
    decay_start, decay_end, floor : fractions, as above.

    Raises
    ------
    ValueError: if a rate is not positive, or another number out of range.

    >>> from qemu_swalp_keras import SWALPSchedule
    >>> schedule = SWALPSchedule(0.05, start=200, swa_learning_rate=0.01)
    >>> [round(float(schedule(t)), 6) for t in (0, 100, 140, 180, 199, 200, 300)]
    [0.05, 0.05, 0.02525, 0.0005, 0.0005, 0.01, 0.01]
    """

    def __init__(
        self,
        learning_rate: float,
        start: float,
        swa_learning_rate: float | None = None,
        decay_start: float = 0.5,
        decay_end: float = 0.9,
        floor: float = 0.01,
        name: str = "SWALPSchedule",
    ) -> None:
        super().__init__()
        self.rule = CoreSWALP(
            learning_rate, start, swa_learning_rate, decay_start, decay_end, floor
        )
        self.name = name

    def __call__(self, step: Any) -> Any:
        """The rate at an iteration, as a 0-d tensor of Keras's float dtype."""
        t = ops.cast(step, keras.backend.floatx())
        return self.rule.scaled(self.rule.learning_rate, t, ops)

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self.rule), "name": self.name}


@keras.saving.register_keras_serializable(package="qemu_swalp")
class SWASchedule(keras.optimizers.schedules.LearningRateSchedule):
    """SWA's cyclic schedule, `qemu_swalp.training.SWASchedule`, over an optimizer's iterations.

    `learning_rate` before start; from there on, in each cycle, linearly from `high` down to `low`.
    An average of the weights at the ends of the cycles is `QuantizedOptimizer(swa_start=start,
    swa_cycle=cycle)`, or `PolicyAverage(schedule.policy())`.

    Parameters
    ----------
    learning_rate, high, low : positive rates, low ≤ high.
    start, cycle : iterations before the first cycle, and of a cycle. Under gradient accumulation
        Keras calls schedules with the number of batches.

    Raises
    ------
    ValueError: if a rate is not positive, or another number out of range.

    >>> from qemu_swalp_keras import SWASchedule
    >>> schedule = SWASchedule(0.1, start=2, cycle=4, high=0.04, low=0.01)
    >>> [round(float(schedule(t)), 4) for t in range(8)]
    [0.1, 0.1, 0.0325, 0.025, 0.0175, 0.01, 0.0325, 0.025]
    """

    def __init__(
        self,
        learning_rate: float,
        start: int,
        cycle: int,
        high: float,
        low: float,
        name: str = "SWASchedule",
    ) -> None:
        super().__init__()
        self.rule = CoreSWA(learning_rate, start, cycle, high, low)
        self.name = name
        # A table has the core's very numbers, which float32 arithmetic in a graph has not.
        self._rates = np.array([self.rule(start + i) for i in range(cycle)])

    def __call__(self, step: Any) -> Any:
        """The rate at an iteration, as a 0-d tensor of Keras's float dtype."""
        rates = ops.convert_to_tensor(self._rates.astype(keras.backend.floatx()))
        step = ops.convert_to_tensor(step)
        place = ops.mod(step - self.rule.start, self.rule.cycle)
        cyclic = ops.take(rates, ops.cast(place, "int32"))
        before = ops.cast(self.rule.learning_rate, rates.dtype)
        return ops.where(step < self.rule.start, before, cyclic)

    def policy(self, **rest: Any) -> Any:
        """The average of the weights at the end of each cycle; `rest` are its other arguments."""
        return self.rule.policy(**rest)

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self.rule), "name": self.name}
