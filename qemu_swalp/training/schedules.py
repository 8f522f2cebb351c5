"""Learning-rate schedules, as functions of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._util.checks import check_int
from .averaging.mean import Averaging


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


@dataclass(frozen=True)
class SWASchedule:
    """The cyclic learning rate of SWA (Izmailov et al. 2018, arXiv 1803.05407, section 3.2) at step
    t, for the update that makes the weights of step t + 1.

    `learning_rate` before `start`. From there on, in each `cycle` of steps, it falls linearly from
    `high` to `low`, which the last step takes: α(i) = (1 - t(i))·high + t(i)·low, t(i) = ((i - 1)
    mod c + 1)/c.

    Parameters
    ----------
    learning_rate, high, low : positive rates, low ≤ high.
    start, cycle : steps before the first cycle, and of a cycle.

    >>> schedule = SWASchedule(0.1, start=2, cycle=4, high=0.04, low=0.01)
    >>> [round(schedule(t), 4) for t in range(8)]
    [0.1, 0.1, 0.0325, 0.025, 0.0175, 0.01, 0.0325, 0.025]
    >>> schedule.policy().start, schedule.policy().cycle
    (2, 4)
    """

    learning_rate: float
    start: int
    cycle: int
    high: float
    low: float

    def __post_init__(self) -> None:
        rates = {name: getattr(self, name) for name in ("learning_rate", "high", "low")}
        if not all(rate > 0 for rate in rates.values()) or not self.low <= self.high:
            raise ValueError(f"rates must be positive, and low at most high, got {rates}")
        check_int("start", self.start, 0, 2**62)
        check_int("cycle", self.cycle, 1, 2**62)

    def __call__(self, t: int) -> float:
        """Learning rate at step t."""
        if t < self.start:
            return self.learning_rate
        progress = ((t - self.start) % self.cycle + 1) / self.cycle
        return (1 - progress) * self.high + progress * self.low

    def policy(self, **rest: Any) -> Averaging:
        """The average of the weights at the end of each cycle; `rest` are its other arguments."""
        return Averaging(self.start, self.cycle, **rest)
