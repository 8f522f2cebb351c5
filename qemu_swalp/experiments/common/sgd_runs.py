"""Training on the core: many runs at once, stacked along axis 0 of one array of weights.

Run r sees the mini-batches of its own seed. The random bits of rounding are numbered over the whole
array, so they differ from run to run too, and the first runs are the same however many follow.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...training import SGD, Averaging

Reals = NDArray[np.floating[Any]]
Indices = NDArray[np.intp]


class Snapshot(NamedTuple):
    """Weights after `step` updates, and the mean of the iterates so far (the weights themselves
    before the first).
    """

    step: int
    weight: Reals
    average: Reals


def descend(
    weight: Reals,
    gradient: Callable[[Reals, Indices], Reals],
    batches: Iterator[Indices],
    optimizer: SGD,
    averaging: Averaging,
    steps: Iterable[int],
    record: Container[int],
) -> Iterator[Snapshot]:
    """Quantized SGD from `weight`; a snapshot at each step in `record`.

    gradient : (weights of all runs, sample indices of shape (runs, batch)) → gradients, shaped as
        the weights.
    steps : 1, 2, …
    """
    params = {"weight": weight}
    state, mean = optimizer.init(params), averaging.update(params, averaging.init(), 0)
    for step in steps:
        gradients = {"weight": gradient(params["weight"], next(batches))}
        params, state = optimizer.update(params, gradients, state)
        mean = averaging.update(params, mean, step)
        if step in record:
            yield Snapshot(
                step,
                params["weight"],
                averaging.average(mean)["weight"] if mean.n_averaged else params["weight"],
            )


def draws(samples: int, batch: int, seeds: Iterable[int]) -> Iterator[Indices]:
    """Mini-batches drawn with replacement, so that the noise of the gradients is independent from
    step to step.
    """
    generators = [np.random.default_rng(seed) for seed in seeds]
    while True:
        block = np.stack(
            [generator.integers(samples, size=(256, batch)) for generator in generators], axis=1
        )
        yield from block


def shuffles(samples: int, batch: int, seeds: Iterable[int]) -> Iterator[Indices]:
    """Mini-batches from one shuffle of the samples after another; what does not fill a batch is
    left out.
    """
    generators = [np.random.default_rng(seed) for seed in seeds]
    batch = min(batch, samples)
    while True:
        orders = np.stack([generator.permutation(samples) for generator in generators])
        for first in range(0, samples - batch + 1, batch):
            yield orders[:, first : first + batch]


def log_spaced(steps: int, count: int = 60) -> list[int]:
    """About `count` steps from 1 to `steps`, evenly spaced in logarithm, the last one included."""
    return sorted({int(step) for step in np.geomspace(1, steps, count).round()} | {steps})
