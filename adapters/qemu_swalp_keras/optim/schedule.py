"""The learning-rate schedule of SWALP's released recipe."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import keras
from keras import ops

from qemu_swalp.training import SWALPSchedule as CoreSchedule


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
        self.rule = CoreSchedule(
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
