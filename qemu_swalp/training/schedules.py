"""Learning-rate schedules, as functions of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class SWALPSchedule:
    """The learning rate of SWALP's released recipe at time t, in epochs or steps (fractions
    allowed).

    `learning_rate` until `decay_start`·start, then linearly down to `floor`·learning_rate at
    `decay_end`·start, held until start; from there on the constant `swa_learning_rate`.

    Parameters
    ----------
    learning_rate, swa_learning_rate : positive rates; swa_learning_rate None keeps
        `floor`·learning_rate.
    start : when averaging begins, in the unit of t.

    # VGG16 in the paper's code
    >>> schedule = SWALPSchedule(0.05, start=200, swa_learning_rate=0.01)
    >>> [round(schedule(t), 6) for t in (0, 100, 140, 180, 199, 200, 300)]
    [0.05, 0.05, 0.02525, 0.0005, 0.0005, 0.01, 0.01]
    """

    learning_rate: float
    start: float
    swa_learning_rate: float | None = None
    decay_start: float = 0.5
    decay_end: float = 0.9
    floor: float = 0.01

    def __post_init__(self) -> None:
        if not self.learning_rate > 0 or (
            self.swa_learning_rate is not None and not self.swa_learning_rate > 0
        ):
            raise ValueError(
                "learning rates must be positive, got "
                f"learning_rate={self.learning_rate}, swa_learning_rate={self.swa_learning_rate}"
            )
        if not self.start >= 0:
            raise ValueError(f"start must be at least 0, got {self.start}")
        if not 0 <= self.decay_start < self.decay_end <= 1:
            raise ValueError(
                "decay_start and decay_end must satisfy 0 ≤ decay_start < decay_end ≤ 1, got "
                f"{self.decay_start} and {self.decay_end}"
            )
        if not 0 < self.floor <= 1:
            raise ValueError(f"floor must be above 0 and at most 1, got {self.floor}")

    def factor(self, t: float) -> float:
        """Learning rate at t as a multiple of `learning_rate`."""
        return float(self.scaled(1.0, t, np))

    def __call__(self, t: float) -> float:
        """Learning rate at t."""
        return float(self.scaled(self.learning_rate, t, np))

    def scaled(self, scale: float, t: Any, xp: Any) -> Any:
        """`factor(t)` times a scale, by the functions `clip` and `where` of a namespace.

        For the graphs of other libraries, where t is a tensor: with `keras.ops`, for instance.
        """
        swa = self.swa_learning_rate
        after = self.floor if swa is None else swa / self.learning_rate
        start = self.start or 1.0  # at 0 every t is after it: any divisor serves
        progress = (t / start - self.decay_start) / (self.decay_end - self.decay_start)
        before = 1 - (1 - self.floor) * xp.clip(progress, 0.0, 1.0)
        return xp.where(t >= self.start, scale * after, scale * before)
