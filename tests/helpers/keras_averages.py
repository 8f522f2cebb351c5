"""Models with averages of `PolicyAverage`, and all that a resumed training of them shall have."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from qemu_swalp_keras import PolicyAverage, QuantizedOptimizer

from qemu_swalp.training import EMA, LAWA, Recipe
from tests.adapters.keras.conftest import data, network

X, Y = data(24)
FIT: dict[str, Any] = {"batch_size": 8, "shuffle": False, "verbose": 0}
STEPS = 3
"""Batches of an epoch."""


def accumulating() -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(0.125, momentum=0.5, gradient_accumulation_steps=2)


def quantized() -> keras.optimizers.Optimizer:
    return QuantizedOptimizer(accumulating(), Recipe(weight="bfp<8,axis=-1>"), seed=1)


def multiple() -> keras.optimizers.Optimizer:
    parts = [accumulating(), keras.optimizers.SGD(0.125)]
    return keras.optimizers.MultiOptimizer(lambda v: parts["head" in v.path])


def compiled(optimizer: keras.optimizers.Optimizer | None = None) -> keras.Model:
    keras.utils.clear_session(free_memory=False)
    model = network()
    layers = [keras.layers.Input((4,)), model.layers[0], keras.layers.BatchNormalization()]
    model = keras.Sequential([*layers, model.layers[1]], name="net")
    model.compile(optimizer or accumulating(), loss="mse", jit_compile=False)
    return model


def kept(averages: list[PolicyAverage], model: keras.Model) -> list[np.ndarray]:
    """All bits that a resumed run shall have."""
    numbers = [np.array([a.step, a.n_averaged]) for a in averages]
    return [
        *model.get_weights(),
        *(w for a in averages if a.n_averaged for w in a.average().values()),
        *numbers,
    ]


def averages() -> list[PolicyAverage]:
    return [
        PolicyAverage(EMA(decay=0.5, warmup=True, include_start=True), buffers=True),
        PolicyAverage(LAWA(cycle=2, size=2, quantizer="bfp8/stochastic")),  # type: ignore[arg-type]
    ]


def ema() -> PolicyAverage:
    return PolicyAverage(EMA(decay=0.5))
