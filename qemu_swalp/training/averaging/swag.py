"""SWAG: a Gaussian around the average of the iterates (Maddox et al. 2019, arXiv 1902.02476)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..._util.checks import check_int
from ...arrays import Array, namespace_of, numpy_namespace
from ...random_bits import RandomBits
from ..sgd import Parameters
from ..tensor_rounding import TensorRandomBits
from .base import AverageState, Policy

MEAN, SQUARES = "mean", "squares"


@dataclass(frozen=True)
class SWAG(Policy):
    """The mean of the iterates, their variance element by element, and the latest `rank`
    deviations from the mean: a Gaussian to draw weights from.

    `average` is the mean θ̄ (SWA's); `sample` draws from N(θ̄, scale·(diag(σ²) + D̂·D̂ᵀ/(K - 1))),
    as in section 3.3 and algorithm 1. The K columns of D̂ are θ_i - θ̄_i, where θ̄_i is the mean of
    the first i iterates. σ² is the second moment less the squared mean, summed as squared
    deviations (Welford 1962), which does not cancel. Of a parameter the state holds "NAME@mean",
    "NAME@squares" and "NAME@SLOT", SLOT = (i - 1) mod rank.

    Parameters
    ----------
    start, cycle, include_start, nonfinite : as in `Policy`. The paper takes an iterate each epoch.
    seed : of the samples, and of the quantizer's random bits.
    quantizer : rounds the mean, and each sample, once, when it is asked for.
    rank : number of deviations kept, K; at least 2. The paper takes 20.

    >>> import numpy as np
    >>> swag = SWAG(rank=2)
    >>> state = swag.init()
    >>> for step in range(1, 6):
    ...     state = swag.update({"w": np.float32([step])}, state, step)
    >>> swag.average(state)["w"].tolist(), swag.variance(state)["w"].tolist()
    ([3.0], [2.0])
    >>> samples = [swag.sample(state, index)["w"].item() for index in range(1000)]
    >>> bool(abs(np.mean(samples) - 3) < 0.2)
    True
    """

    rank: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("rank", self.rank, 2, 2**31)

    def keys(self, name: str) -> list[str]:
        return [f"{name}@{part}" for part in (MEAN, SQUARES, *range(self.rank))]

    def add(self, params: Parameters, state: AverageState) -> AverageState:
        count, before = state.n_averaged + 1, state.value or {}
        value = dict(before)
        for name, weight in params.items():
            if before:
                difference = weight - before[f"{name}@{MEAN}"]
                mean = before[f"{name}@{MEAN}"] + difference / count
                deviation = weight - mean
                squares = before[f"{name}@{SQUARES}"] + difference * deviation
            else:
                mean, deviation, squares = 1 * weight, 0 * weight, 0 * weight
            value[f"{name}@{MEAN}"], value[f"{name}@{SQUARES}"] = mean, squares
            value[f"{name}@{state.n_averaged % self.rank}"] = deviation
        return AverageState(count, value)

    def mean(self, state: AverageState, value: dict[str, Array], dtype: str) -> dict[str, Array]:
        return self.requantized(_part(value, MEAN), state.n_averaged)

    def variance(self, state: AverageState) -> dict[str, Array]:
        """σ² of each parameter's elements, by name. ValueError if nothing is averaged yet."""
        self.average(state)
        squares = _part(state.value or {}, SQUARES)
        return {
            # A rounded mean may lie beyond the iterate, which makes a product negative.
            name: namespace_of(total).maximum(total / state.n_averaged, 0 * total)
            for name, total in squares.items()
        }

    def sample(self, state: AverageState, index: int = 0, scale: float = 0.5) -> dict[str, Array]:
        """Weights drawn from the Gaussian, by name; equal for equal seed and index.

        Parameters
        ----------
        state : of at least one iterate.
        index : number of the sample, 0..2^32-1.
        scale : of the covariance, at least 0; 0.5 in the paper.

        Raises
        ------
        ValueError: if nothing is averaged yet, or an argument is out of range.
        """
        check_int("index", index, 0, 2**32 - 1)
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not scale >= 0:
            raise ValueError(f"scale must be a number from 0 on, got {scale!r}")
        columns = min(state.n_averaged, self.rank)
        variances, value = self.variance(state), state.value or {}
        common = TensorRandomBits(self.drawn_seed, 0, index)
        weights = standard_normal(common, "sample.deviations", columns)
        weights *= math.sqrt(scale / max(columns - 1, 1))
        drawn = {}
        for tensor, (name, variance) in enumerate(variances.items()):
            xp = namespace_of(variance)
            noise = standard_normal(
                TensorRandomBits(self.drawn_seed, tensor, index),
                "sample.diagonal",
                *xp.shape(variance),
            )
            deviation = _beside(variance, noise * math.sqrt(scale)) * xp.sqrt(variance)
            for slot, weight in enumerate(weights.tolist()):
                deviation = deviation + weight * value[f"{name}@{slot}"]
            drawn[name] = value[f"{name}@{MEAN}"] + deviation
        return self.requantized(drawn, state.n_averaged)


def _part(value: dict[str, Array], part: str) -> dict[str, Array]:
    suffix = f"@{part}"
    return {k.removesuffix(suffix): x for k, x in value.items() if k.endswith(suffix)}


def standard_normal(draw: TensorRandomBits, role: str, *shape: int) -> np.ndarray:
    """Independent normal numbers of mean 0 and variance 1 in float64, an element number each, by
    the method of Box and Muller (1958) from two random words.
    """
    radius, angle = (_uniform(draw(f"{role}.{part}"), shape) for part in ("radius", "angle"))
    normal: np.ndarray = np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle)
    return normal


def _uniform(random: RandomBits, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers between 0 and 1, both excluded."""
    xp = numpy_namespace()
    words = random.words(xp, shape, np.zeros(0, np.float32))
    uniform: np.ndarray = (np.asarray(words).view(np.uint32) + 0.5) / 2.0**32
    return uniform


def _beside(like: Array, numbers: np.ndarray) -> Any:
    """The numbers in the dtype and library of an array, where it is."""
    xp = namespace_of(like)
    dtype = xp.dtype(like)
    integer = np.dtype(f"int{np.dtype(dtype).itemsize * 8}")
    bits = np.ascontiguousarray(numbers.astype(dtype)).view(integer)
    table = xp.table(bits.reshape(-1), integer.itemsize * 8, like)
    return xp.floats(xp.reshape(table, xp.shape(like)), dtype)
