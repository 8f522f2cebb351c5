"""The problems, and their simulation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from ... import Fixed, Quantizer, bfp
from ...training import SGD, Averaging, Recipe
from ..common.report import Progress, Row
from ..common.sgd_runs import Reals, descend
from .settings import Settings

WORD = 24
"""Bits of a weight in fixed point: the range is never reached."""
OPTIMUM = 0.3
STEEPNESS, SHARE, LAMBDA = 4.0, 0.8, 0.05
"""k, p and λ of part two; its optimum is near log(p/(1-p))/k."""
MAGNITUDES = (1.0, 1 / 16)
"""Of the optima of part three, eight weights of each."""
PARTS = {
    "1": "a quadratic: how numbers are rounded",
    "2": "a lopsided function, strongly convex: how far apart numbers are",
    "3": "a quadratic in block floating point: weights that share an exponent",
}


@dataclass(frozen=True)
class Case:
    """What one simulation is of. `quantizer` : of the weights, None for float32; `shape` : of the
    weights of one replica as it sees them; `of` : weights that its rows are about, by name.
    """

    part: str
    numbers: str
    rounding: str
    quantizer: Quantizer | None
    gradient: Callable[[Reals], Reals]
    optimum: Reals
    shape: tuple[int, ...]
    of: dict[str, slice]


def cases(settings: Settings) -> Iterator[Case]:
    """All simulations of the three parts."""
    fixed = Fixed(WORD, settings.fraction)
    one = np.array([OPTIMUM])
    quadratic = partial(Case, gradient=lambda w: w, optimum=one, shape=(1,), of={"": slice(None)})
    roundings = [
        f"{mode}<{bits}>"
        for mode, bits in product(
            ("stochastic_a", "stochastic_b", "stochastic_c"), settings.random_bits
        )
    ]
    for rounding in (*roundings, "nearest_even"):
        quantizer = Quantizer(fixed, rounding)
        yield quadratic("1", str(fixed), rounding, quantizer)
    yield quadratic("1", "float32", "", None)
    lopsided = partial(quadratic, gradient=_slope, optimum=np.array([_lopsided_optimum()]))
    for fraction in settings.fractions:
        format = Fixed(WORD, fraction)
        yield lopsided("2", str(format), "stochastic_a", Quantizer(format, "stochastic"))
    yield lopsided("2", "float32", "", None)
    optima = np.repeat(np.array(MAGNITUDES), 8) * np.tile(np.linspace(0.55, 0.95, 8), 2)
    halves = {"large weights": slice(0, 8), "small weights": slice(8, 16)}
    for word, (block, shape) in product(settings.words, (("big", (16,)), ("small", (2, 8)))):
        quantizer = Quantizer(bfp(word, axis=0), "stochastic")
        name = f"{word} bits, {block} blocks"
        yield Case("3", name, "stochastic_a", quantizer, lambda w: w, optima, shape, halves)


def _slope(distance: Reals) -> Reals:
    """f' of part two at so far from its optimum."""
    w = distance + _lopsided_optimum()
    sigmoid = 1 / (1 + np.exp(-STEEPNESS * w))
    return np.asarray(STEEPNESS * (sigmoid - SHARE) + LAMBDA * w)


def _lopsided_optimum() -> float:
    """Where f' = 0, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        w = (low + high) / 2
        positive = STEEPNESS * (1 / (1 + np.exp(-STEEPNESS * w)) - SHARE) + LAMBDA * w > 0
        low, high = (low, w) if positive else (w, high)
    return (low + high) / 2


def rows_of(case: Case, settings: Settings, bar: Progress) -> Iterator[Row]:
    """For each seed: mean square distance over weights and replicas, and the bias, root mean
    square over weights.
    """
    count = len(case.optimum)
    label = f"part {case.part}: {case.numbers} {case.rounding}"
    low, average = simulate(case, settings, bar.steps(settings.steps, label))
    methods = ("SGD-LP", "SWALP") if case.quantizer else ("SGD", "SWA")
    for (name, place), (method, weight) in product(
        case.of.items(), zip(methods, (low, average), strict=True)
    ):
        far = weight.reshape(settings.seeds, settings.replicas, count) - case.optimum
        for seed, distances in zip(settings.run_seeds, far[..., place], strict=True):
            biases = distances.mean(0)
            yield {
                "part": case.part,
                "part_is": PARTS[case.part],
                "numbers": case.numbers,
                "rounding": case.rounding,
                "weights": name,
                "method": method,
                "seed": seed,
                "distance": float(np.mean(distances**2)),
                "bias": float(biases[0] if len(biases) == 1 else np.sqrt(np.mean(biases**2))),
            }


def simulate(case: Case, settings: Settings, steps: Iterator[int]) -> tuple[Reals, Reals]:
    """(last iterate, average) of all seeds and replicas, in float64, w_0 = 0."""
    noises = [np.random.default_rng(seed) for seed in settings.run_seeds]
    count, optimum = len(case.optimum), case.optimum.astype(np.float32)
    rows = settings.seeds * settings.replicas

    def gradient(weight: Reals, noise: Any) -> Reals:
        far = weight.reshape(rows, count) - optimum
        exact = case.gradient(far.astype(np.float64)).astype(np.float32)
        return np.asarray((exact + noise).reshape(weight.shape))

    def drawn() -> Iterator[Any]:
        shape = (settings.replicas, count)
        while True:
            yield np.concatenate([noise.standard_normal(shape, np.float32) for noise in noises])

    recipe = Recipe(weight=case.quantizer) if case.quantizer else Recipe(allow_empty=True)
    last = next(
        descend(
            np.zeros((rows * case.shape[0], *case.shape[1:]), np.float32)
            if len(case.shape) > 1
            else np.zeros((rows, count), np.float32),
            gradient,
            drawn(),
            SGD(settings.learning_rate, recipe=recipe, seed=settings.seed),
            Averaging(include_start=True),
            steps,
            (settings.steps,),
        )
    )
    return last.weight.astype(np.float64), last.average.astype(np.float64)
