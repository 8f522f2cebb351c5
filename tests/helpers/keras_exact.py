"""A linear regression whose every product and sum is exact in float32: all ways of training it give
the same bits.

Inputs and targets are small integers, weights lie on a fixed-point grid, and batches, rates and
decays are powers of two; so neither the order of a sum nor a fused multiply-add changes a bit, and
NumPy's numbers hold everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from qemu_swalp_keras import QuantizedOptimizer

from qemu_swalp.training import Recipe, TensorRandomBits, apply

BATCH, INPUTS, OUTPUTS, STEPS = 8, 4, 2, 16
RECIPE = Recipe(
    weight="fixed<8,4>/stochastic", gradient="fixed<8,6>/stochastic", momentum="bfp<8>/stochastic"
)
MASTER = Recipe(
    weight="fixed<6,2>/stochastic",
    gradient="fixed<8,6>/stochastic",
    momentum="bfp<8>/stochastic",
    accumulator="fixed<12,8>/stochastic",
)
SEED, RATE, MOMENTUM, START, CYCLE = 3, 2.0**-3, 0.5, 6, 2

_rng = np.random.default_rng(1)
X = _rng.integers(-2, 3, (BATCH * STEPS, INPUTS)).astype("float32")
Y = (
    X @ _rng.integers(-2, 3, (INPUTS, OUTPUTS)) + _rng.integers(-1, 2, (BATCH * STEPS, OUTPUTS))
).astype("float32")
INITIAL = [
    _rng.normal(size=(INPUTS, OUTPUTS)).astype("float32"),
    _rng.normal(size=OUTPUTS).astype("float32"),
]


def network(**arguments: Any) -> keras.Model:
    """Arguments are those of the layer."""
    model = keras.Sequential(
        [keras.layers.Input((INPUTS,)), keras.layers.Dense(OUTPUTS, name="layer", **arguments)],
        name="net",
    )
    model.set_weights(INITIAL)
    return model


def optimizer(
    recipe: Recipe = RECIPE, seed: int = SEED, swa_finalize: bool = False, **arguments: Any
) -> QuantizedOptimizer:
    """Arguments are those of the inner SGD."""
    inner = keras.optimizers.SGD(arguments.pop("learning_rate", RATE), MOMENTUM, **arguments)
    return QuantizedOptimizer(
        inner, recipe, seed=seed, swa_start=START, swa_cycle=CYCLE, swa_finalize=swa_finalize
    )


def compiled(model: keras.Model | None = None, opt: Any = None, **arguments: Any) -> keras.Model:
    """Arguments are those of `compile`."""
    model = network() if model is None else model
    model.compile(optimizer() if opt is None else opt, loss="mse", **arguments)
    return model


def fit(model: keras.Model, epochs: int = 1, **arguments: Any) -> keras.callbacks.History:
    """Over the data in their order."""
    return model.fit(X, Y, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0, **arguments)


@dataclass
class Expected:
    """Weights, momenta, and the average (count and sum) that they must have."""

    weights: list[np.ndarray]
    momenta: list[np.ndarray]
    n_averaged: int
    sums: list[np.ndarray]

    @property
    def average(self) -> list[np.ndarray]:
        return [total / np.float32(self.n_averaged) for total in self.sums]


def gradients(weights: list[np.ndarray], batch: int) -> list[np.ndarray]:
    """Those of the mean squared error over a batch."""
    rows = slice(batch % STEPS * BATCH, (batch % STEPS + 1) * BATCH)
    error = 2 * (X[rows] @ weights[0] + weights[1] - Y[rows]) / (BATCH * OUTPUTS)
    return [X[rows].T @ error, error.sum(axis=0)]


def trained(updates: int, recipe: Recipe = RECIPE, **arguments: Any) -> Expected:
    """The last of `training`."""
    *_, last = training(updates, recipe, **arguments)
    return last


def training(
    updates: int,
    recipe: Recipe,
    micro: int = 1,
    decay: float | tuple[float, float] = 0.0,
    clipvalue: float = np.inf,
    rates: float | Callable[[int], float] = RATE,
    streams: tuple[tuple[int, int], ...] = ((SEED, 0), (SEED, 1)),
) -> Iterator[Expected]:
    """What NumPy gets at first and after each update, by the definition of algorithm 2 over Keras's
    momentum SGD.

    `micro` batches make one update. `decay`: one or each weight's. `streams`: each weight's (seed,
    tensor).
    """
    decays = np.broadcast_to(np.float32(decay), len(INITIAL))
    weights = [
        apply(recipe.weight, w, TensorRandomBits(*stream, 0), "initial")
        for stream, w in zip(streams, INITIAL, strict=True)
    ]
    masters = list(weights)
    state = Expected(
        weights, [np.zeros_like(w) for w in weights], 0, [np.zeros_like(w) for w in weights]
    )
    yield state
    for step in range(updates):
        rate = np.float32(rates(step) if callable(rates) else rates)
        mean = [
            sum(parts) / np.float32(micro)
            for parts in zip(
                *(gradients(weights, step * micro + k) for k in range(micro)), strict=True
            )
        ]
        momenta = []
        for i, g in enumerate(mean):
            draw = TensorRandomBits(*streams[i], step)
            g = apply(recipe.gradient, np.clip(g, -clipvalue, clipvalue), draw, "gradient")
            start = masters[i] if recipe.accumulator is not None else weights[i]
            velocity = np.float32(MOMENTUM) * state.momenta[i] - rate * g
            moved = start - start * decays[i] * rate + velocity
            momenta.append(apply(recipe.momentum, velocity, draw, "momentum"))
            masters[i] = apply(recipe.accumulator, moved, draw, "accumulator")
            weights[i] = apply(recipe.weight, masters[i], draw, "weight")
        due = step + 1 > START and (step + 1 - START) % CYCLE == 0
        sums = (
            [total + w for total, w in zip(state.sums, weights, strict=True)] if due else state.sums
        )
        weights = list(weights)
        state = Expected(weights, momenta, state.n_averaged + due, sums)
        yield state


def held(opt: Any, name: str) -> list[np.ndarray]:
    """The values of the optimizer's variables of that name, in the order of the weights."""
    return [keras.ops.convert_to_numpy(v) for v in opt.variables if v.path.endswith(f"_{name}")]


def assert_as_expected(model: keras.Model, expected: Expected, opt: Any = None) -> None:
    """Weights, momenta, average: every bit."""
    from tests.adapters.keras.conftest import same

    opt = model.optimizer if opt is None else opt
    assert same(model.get_weights(), expected.weights)
    assert same(held(opt, "momentum"), expected.momenta)
    assert opt.n_averaged == expected.n_averaged
    if expected.n_averaged:
        assert same(list(opt.average().values()), expected.average)
