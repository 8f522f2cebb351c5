"""Softmax regression on Keras, by `compile` and `fit`: the twin of `on_torch`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray
from qemu_swalp_keras import SGD, SWALPSchedule

from ... import Fixed
from ..common.data import CLASSES
from ..common.report import Progress
from ..common.sgd_runs import Reals, shuffles
from .core import Softmax, Stacks, Training, weights_in

FRAMEWORK = f"Keras ({keras.backend.backend()})"


class Batches(keras.utils.PyDataset):
    """`sgd_runs.shuffles` for `fit`: item t is the mini-batch of step t + 1, (runs, batch, …) and
    (runs, batch).

    It holds a whole training, since `fit` calls `on_epoch_end` more often than epochs end.
    """

    def __init__(
        self, x: NDArray[Any], labels: NDArray[Any], batch: int, seeds: Sequence[int], steps: int
    ) -> None:
        super().__init__()
        self._x, self._labels = x, labels
        self._batches = list(islice(shuffles(len(x), batch, seeds), steps))

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, i: int) -> tuple[NDArray[Any], NDArray[Any]]:
        batch = self._batches[i]
        return self._x[batch], self._labels[batch]


class CrossEntropy(keras.losses.Loss):
    """The mean over each run's mini-batch, summed over the runs, which thus learn as if each were
    alone.
    """

    def __init__(self) -> None:
        super().__init__(reduction="sum")

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return ops.mean(
            ops.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True), axis=-1
        )


class Bar(keras.callbacks.Callback):
    """Counts the steps of `fit` by those of a progress bar."""

    async_safe = True

    def __init__(self, steps: Iterator[int]) -> None:
        super().__init__()
        self._steps = steps

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        next(self._steps)

    def on_train_end(self, logs: Any = None) -> None:
        """Count the last."""
        next(self._steps, None)


def fit(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    batches: Batches,
    bar: Progress,
    label: str,
) -> None:
    """Train the stacked runs."""
    model.compile(optimizer, loss=CrossEntropy())
    model.fit(batches, shuffle=False, callbacks=[Bar(bar.steps(len(batches), label))], verbose=0)


def train(
    problem: Softmax, training: Training, format: Fixed | None, bar: Progress, label: str
) -> Stacks:
    """As `core.train_on_core`, gradients by Keras."""
    last, average = _descend(problem, training, training.rate, format, bar, label)
    schedule = SWALPSchedule(**asdict(training.decayed(len(problem.train))))
    decayed, _ = _descend(problem, training, schedule, format, bar, label)
    return last, decayed, average


def _descend(
    problem: Softmax, training: Training, rate: Any, format: Fixed | None, bar: Progress, label: str
) -> tuple[Reals, Reals]:
    x, y, runs = problem.train, problem.data.train_labels, len(training.seeds)
    model = keras.Sequential(
        [
            layers.Input(batch_shape=(runs, None, x.shape[1])),
            layers.EinsumDense(
                "rbi,rio->rbo", output_shape=(None, CLASSES), kernel_initializer="zeros"
            ),
        ]
    )
    optimizer = SGD(
        rate,
        weight_decay=training.decay,
        recipe=weights_in(format),
        seed=training.seeds[0],
        swa_start=training.averaging_start(len(x)),
        swa_finalize=False,
    )
    fit(
        model,
        optimizer,
        Batches(x, y, training.batch, training.seeds, training.steps(len(x))),
        bar,
        label,
    )
    (average,) = optimizer.average().values()
    return np.asarray(model.get_weights()[0]), average
