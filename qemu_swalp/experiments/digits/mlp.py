"""Part two of `digits`: a network with every number in block floating point, on an adapter.

Algorithm 2 of Yang et al. 2019 on a multilayer perceptron with one hidden layer: weights,
gradients, momenta, activations after the ReLU and their errors in `bfp<W>`, stochastic rounding;
the logits are not rounded. The runs of all seeds are stacked along axis 0 of every tensor, and
blocks are those of SWALP's small-block design within a run: one exponent for each output channel of
a weight, each bias, each sample of an activation.

What the frameworks share is here; `on_torch` and `on_keras` train. They begin at the same
weights, see the same mini-batches and round weights, gradients and momenta with the same random
bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import bfp
from ...training import Quantizer, Recipe
from ..common.data import CLASSES, Dataset
from ..common.report import Progress, Row
from ..softmax.core import LOW_PRECISION, METHODS
from .settings import Settings

Logits = NDArray[np.floating[Any]]
"""Of every run on every test image: (runs, images, classes)."""
Train = Callable[[Settings, Dataset, int | None, bool, Progress, str], tuple[Logits, Logits]]
"""(settings, data, word or None for float32, whether the rate decays, bar, label) → logits of the
last weights and of their average.
"""
Layer = tuple[NDArray[np.float32], NDArray[np.float32]]


def initial(seeds: Sequence[int], inputs: int, hidden: int) -> tuple[Layer, Layer]:
    """Weight (runs, outputs, inputs) and bias (runs, 1, outputs) of both layers: uniform in
    ±1/√inputs.

    >>> (weight, bias), _ = initial((0, 1), 64, 16)
    >>> weight.shape, bias.shape, bool(abs(weight).max() < 1 / 8)
    ((2, 16, 64), (2, 1, 16), True)
    """
    generators = [np.random.default_rng((seed, hidden)) for seed in seeds]

    def layer(inputs: int, outputs: int) -> Layer:
        bound = inputs**-0.5
        shapes = (outputs, inputs), (1, outputs)
        drawn = [
            [g.uniform(-bound, bound, shape).astype(np.float32) for shape in shapes]
            for g in generators
        ]
        return np.stack([weight for weight, _ in drawn]), np.stack([bias for _, bias in drawn])

    return layer(inputs, hidden), layer(hidden, CLASSES)


def recipe_of(word: int | None) -> Recipe:
    """Every number in `word`-bit block floating point; None: float32."""
    if word is None:
        return Recipe()
    q = Quantizer(bfp(word, axis=(0, 1)), "stochastic")
    return Recipe(weight=q, activation=q, error=q, gradient=q, momentum=q)


def total_steps(settings: Settings, samples: int) -> int:
    """Steps of all runs, float included."""
    return 2 * (1 + len(settings.words)) * settings.network_epochs * epoch(settings, samples)


def epoch(settings: Settings, samples: int) -> int:
    """Steps in an epoch."""
    return max(samples // settings.network_batch, 1)


def rows(network: Any, settings: Settings, data: Dataset, bar: Progress) -> list[Row]:
    """A row for each number of bits, method and seed. `network` : the module of a framework."""
    train: Train = network.train
    results: list[Row] = []
    for word in (None, *settings.words):
        label = f"network, {f'bfp<{word}>' if word else 'float32'}"
        last, average = train(settings, data, word, False, bar, label)
        decayed, _ = train(settings, data, word, True, bar, label)
        methods = METHODS if word is None else LOW_PRECISION
        for method, logits in zip(methods, (last, decayed, average), strict=True):
            errors = 100 * np.mean(logits.argmax(-1) != data.test_labels, axis=1)
            results += [
                {
                    "framework": network.FRAMEWORK,
                    "format": f"bfp<{word}>" if word else "float32",
                    "bits": word or "float32",
                    "method": method,
                    "seed": seed,
                    "test_error": float(error),
                }
                for seed, error in zip(settings.run_seeds, errors, strict=True)
            ]
    return results
