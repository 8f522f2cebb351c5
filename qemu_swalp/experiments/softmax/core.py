"""Softmax regression with L2, a strongly convex problem, over many runs stacked along axis 0.

f(W) = mean_i cross_entropy(softmax(x_i W), y_i) + λ/2 ‖W‖²; x_i ends with a 1, so W's last row is
the bias.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import Fixed
from ...training import SGD, Averaging, Recipe, SWALPSchedule
from .. import load_on_framework
from ..common.data import CLASSES, Dataset
from ..common.report import Progress, Row
from ..common.sgd_runs import Indices, Reals, Snapshot, descend, shuffles

METRICS = ("gradient_norm", "train_loss", "test_error")
METHODS = ("SGD", "SGD decayed", "SWA")
LOW_PRECISION = ("SGD-LP", "SGD-LP decayed", "SWALP")

Stacks = tuple[Reals, Reals, Reals]
"""The weights of every run, for each of the three methods."""
Trainer = Callable[["Softmax", "Training", "Fixed | None", Progress, str], Stacks]
Rate = float | Callable[[int], float]


@dataclass(frozen=True)
class Training:
    """How a run goes. rate : of learning. decay : λ. start : epochs before the average, which then
    takes every step.
    """

    rate: float
    batch: int
    epochs: int
    start: int
    decay: float
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.start >= self.epochs:
            raise ValueError(
                "--start must be less than --epochs, or nothing is averaged; "
                f"got {self.start} and {self.epochs}"
            )

    def steps(self, samples: int) -> int:
        """Number of steps of a run."""
        return self.epochs * self.epoch(samples)

    def decayed(self, samples: int) -> SWALPSchedule:
        """The rate that SWALP's released recipe gives SGD: constant for half of the steps, then
        down to 1% of it.
        """
        return SWALPSchedule(self.rate, self.steps(samples))

    def averaging_start(self, samples: int) -> int:
        """Steps before averaging."""
        return self.start * self.epoch(samples)

    def epoch(self, samples: int) -> int:
        """Steps in an epoch."""
        return max(samples // self.batch, 1)


class Softmax:
    """The problem on a data set."""

    def __init__(self, data: Dataset, decay: float) -> None:
        self.data, self.decay = data, decay
        self.train, self.test = _with_one(data.train), _with_one(data.test)

    def start(self, runs: int) -> NDArray[np.float32]:
        """W = 0 for every run."""
        return np.zeros((runs, self.train.shape[1], CLASSES), np.float32)

    @cached_property
    def _targets(self) -> NDArray[np.float32]:
        return np.eye(CLASSES, dtype=np.float32)[self.data.train_labels]

    def gradient(self, weight: Reals, batch: Indices) -> Reals:
        """Of the mean cross entropy over each run's mini-batch; the optimizer adds L2's, as weight
        decay.
        """
        x = self.train[batch]
        surplus = _softmax(x @ weight) - self._targets[batch]
        return np.asarray(x.transpose(0, 2, 1) @ surplus / np.float32(batch.shape[1]))

    def metrics(self, weight: Reals) -> Row:
        """Of one run's weights: ‖∇f‖ and f on all training samples, and the test error in percent.
        In float64.
        """
        w = weight.astype(np.float64)
        p = _softmax(self.train @ w)
        labels = self.data.train_labels
        gradient = self.train.T @ (p - self._targets) / len(labels) + self.decay * w
        loss = -np.log(
            np.maximum(p[np.arange(len(labels)), labels], 1e-300)
        ).mean() + self.decay / 2 * np.sum(w * w)
        wrong = np.argmax(self.test @ w, axis=1) != self.data.test_labels
        values = (np.linalg.norm(gradient), loss, 100 * wrong.mean())
        return dict(zip(METRICS, map(float, values), strict=True))


def train_on_core(
    problem: Softmax, training: Training, format: Fixed | None, bar: Progress, label: str
) -> Stacks:
    """Weights of every run, kept in the format or in float32: last iterate, last iterate at a
    decayed rate, average.
    """
    samples = len(problem.train)
    steps = training.steps(samples)

    def descent(rate: Rate) -> Snapshot:
        optimizer = SGD(
            rate, weight_decay=training.decay, recipe=weights_in(format), seed=training.seeds[0]
        )
        return list(
            descend(
                problem.start(len(training.seeds)),
                problem.gradient,
                shuffles(samples, training.batch, training.seeds),
                optimizer,
                Averaging(training.averaging_start(samples), exact=format),
                bar.steps(steps, label),
                (steps,),
            )
        )[-1]

    constant = descent(training.rate)
    return constant.weight, descent(training.decayed(samples)).weight, constant.average


def trainer(framework: str) -> tuple[str, Trainer]:
    """What to call the framework, and the function that trains on it: "core", "torch" or
    "keras".
    """
    if framework == "core":
        return framework, train_on_core
    module = load_on_framework(framework, "softmax")
    return module.FRAMEWORK, module.train


def weights_in(format: Fixed | None) -> Recipe:
    """Weights in a format, stochastic rounding; None: float32."""
    return Recipe(weight=None if format is None else f"{format}/stochastic")


def rows_of(
    problem: Softmax, training: Training, format: Fixed | None, stacks: Stacks, **columns: Any
) -> list[Row]:
    """A row of metrics for each method and seed."""
    bits = "float32" if format is None else format.fraction
    return [
        columns
        | {"format": str(format or "float32"), "bits": bits, "method": method, "seed": seed}
        | problem.metrics(weight)
        for method, stack in zip(METHODS if format is None else LOW_PRECISION, stacks, strict=True)
        for seed, weight in zip(training.seeds, stack, strict=True)
    ]


def _with_one(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([x, np.ones((len(x), 1), np.float32)], axis=1)


def _softmax(logits: Reals) -> Reals:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
