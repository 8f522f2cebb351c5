"""Averaging quantized models: SQWA (Shin, Boo, Sung 2020, arXiv 2002.00343)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..._util.checks import check_choice, check_int
from ...arrays import Array
from ..sgd import Parameters
from .base import AverageState, Policy
from .mean import Averaging

SHAPES = ("linear", "cosine", "triangular")


@dataclass(frozen=True)
class SQWA(Policy):
    """The mean, in high precision, of `captures` low-precision models, re-quantized; training then
    goes on from it.

    In the paper a float model is quantized, retrained on a cyclic learning rate (`SQWASchedule`),
    and captured at the end of each cycle. The captured models are averaged, and the average is
    quantized again, and fine-tuned at a small rate. What is fine-tuned is `average(state)`, taken
    as the weights once `complete(state)`.

    Parameters
    ----------
    start, cycle, include_start, seed, nonfinite : as in `Policy`; `SQWASchedule.policy` gives the
        first three of a schedule.
    quantizer : of the weights; rounds the mean once. None, for the float twin, leaves it.
    captures : models that are averaged, later ones are not. The paper compares several numbers; the
        text that was read names seven in an example, and no rule, so the number is yours.

    >>> import numpy as np
    >>> sqwa = SQWA(start=10, cycle=5, captures=2, quantizer="fixed<4,1>/nearest_even")
    >>> state = sqwa.init()
    >>> for step in range(1, 31):
    ...     state = sqwa.update({"w": np.float32([step / 8])}, state, step)
    >>> sqwa.complete(state), sqwa.average(state)["w"].tolist()      # (15 + 20)/2/8 = 2.1875
    (True, [2.0])
    """

    captures: int = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("captures", self.captures, 1, 2**31)

    def complete(self, state: AverageState) -> bool:
        """Whether all models are captured."""
        return state.n_averaged >= self.captures

    def add(self, params: Parameters, state: AverageState) -> AverageState:
        return state if self.complete(state) else Averaging().add(params, state)

    def mean(self, state: AverageState, value: dict[str, Array], dtype: str) -> dict[str, Array]:
        return self.requantized(Averaging().mean(state, value, dtype), state.n_averaged)


@dataclass(frozen=True)
class SQWASchedule:
    """SQWA's learning rate at step t, for the update that makes the weights of step t + 1.

    `learning_rate` before `start`; then `captures` cycles of `period` steps from `high` to `low`;
    then `fine_tuning`.

    Parameters
    ----------
    learning_rate, high, low, fine_tuning : positive rates, low ≤ high. The paper's own were not
        read.
    start, period : steps before the first cycle, and of a cycle. captures : number of cycles.
    shape : of a cycle: "linear", down as in SWA (Izmailov et al. 2018): its last step takes `low`;
        "cosine", half a wave down; "triangular", down and up again as in FGE (Garipov et al. 2018),
        which has `low` in the middle, where a model is captured then. Which of them the paper uses
        was not established.

    >>> cycles = {"start": 2, "period": 4, "captures": 2, "high": 0.04, "low": 0.01}
    >>> schedule = SQWASchedule(0.1, **cycles, fine_tuning=0.001)
    >>> [round(schedule(t), 4) for t in range(12)]
    [0.1, 0.1, 0.0325, 0.025, 0.0175, 0.01, 0.0325, 0.025, 0.0175, 0.01, 0.001, 0.001]
    >>> schedule.policy().start, schedule.policy().cycle, schedule.end
    (2, 4, 10)
    """

    learning_rate: float
    start: int
    period: int
    captures: int
    high: float
    low: float
    fine_tuning: float
    shape: str = "linear"

    def __post_init__(self) -> None:
        rates = {
            name: getattr(self, name) for name in ("learning_rate", "high", "low", "fine_tuning")
        }
        if not all(rate > 0 for rate in rates.values()) or not self.low <= self.high:
            raise ValueError(f"rates must be positive, and low at most high, got {rates}")
        check_int("start", self.start, 0, 2**62)
        check_int("period", self.period, 2 if self.shape == "triangular" else 1, 2**62)
        check_int("captures", self.captures, 1, 2**31)
        check_choice("shape", self.shape, SHAPES)

    @property
    def end(self) -> int:
        """The step at which fine-tuning begins."""
        return self.start + self.period * self.captures

    def __call__(self, t: int) -> float:
        if t < self.start:
            return self.learning_rate
        if t >= self.end:
            return self.fine_tuning
        progress = ((t - self.start) % self.period + 1) / self.period  # as in SWA: 1/c, 2/c, …, 1
        down = {
            "linear": progress,
            "cosine": (1 - math.cos(math.pi * progress)) / 2,
            "triangular": 1 - abs(2 * progress - 1),
        }[self.shape]
        return (1 - down) * self.high + down * self.low

    def policy(self, **rest: Any) -> SQWA:
        """The policy that captures a model wherever a cycle's rate is least; `rest` are its other
        arguments.
        """
        middle = self.shape == "triangular"
        start = self.start + self.period // 2 if middle else self.start
        return SQWA(start, self.period, include_start=middle, captures=self.captures, **rest)
