"""SWALP's average of the weights (Yang et al. 2019, algorithms 1 and 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from ..backends import Array
from ..checks import check_bool, check_int
from ..formats import Fixed, Format, parse
from .recipe import Draw, Quantizer, apply
from .sgd import Parameters


class AverageState(NamedTuple):
    """`n_averaged`: how many iterates were averaged. `value`: by name, what is kept of them; None before the first."""

    n_averaged: int
    value: dict[str, Array] | None


def due(step: Any, start: int, cycle: int, include_start: bool = False) -> Any:
    """Whether the weights after `step` updates enter the average: step > start and (step - start) divisible by cycle.

    Algorithm 2 leaves the weights at `start` out; algorithm 1 takes them in: `include_start`. `step` is an int, or an
    integer array, as the graph libraries need it; so is the answer a bool, or an array of such.
    """
    return ((step > start) | (include_start & (step == start))) & ((step - start) % cycle == 0)


@dataclass(frozen=True)
class Averaging:
    """An equal-weight mean of iterates as pure functions: `init`, `update`, `average`.

    Parameters
    ----------
    start : number of updates before averaging begins (the paper's warm-up S).
    cycle : average every so many updates (the paper's c).
    include_start : whether the weights at `start` count (algorithm 1) or not (algorithm 2, default).
    quantizer : format of the average itself, applied to the running mean each time; None keeps a sum in the weights'
        dtype, which is exact as long as it fits the significand: for 8-bit weights over 2^16 averages in float32.
    exact : a `Fixed` format that the weights are in: the sum is kept in int64, with no rounding ever (NumPy and CuPy).
        Weights off its grid raise ValueError.
    seed : of the quantizer's random bits.

    >>> import numpy as np
    >>> averaging = Averaging(start=10, cycle=2)
    >>> state = averaging.init()
    >>> for step in range(1, 15):
    ...     state = averaging.update({"w": np.float32([step])}, state, step)
    >>> state.n_averaged, averaging.average(state)["w"].tolist()
    (2, [13.0])
    """

    start: int = 0
    cycle: int = 1
    include_start: bool = False
    quantizer: Quantizer | None = None
    exact: Fixed | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_int("start", self.start, 0, 2**62)
        check_int("cycle", self.cycle, 1, 2**62)
        check_bool("include_start", self.include_start)
        if self.quantizer is not None:
            object.__setattr__(self, "quantizer", Quantizer.parse(self.quantizer))
        if self.exact is not None:
            exact: Format = parse(self.exact)
            if not isinstance(exact, Fixed):
                raise TypeError(f"exact must be a fixed-point format, whose sums are integers, got {exact}")
            object.__setattr__(self, "exact", exact)
            if self.quantizer is not None:
                raise ValueError("exact and quantizer exclude each other: an exact average has no format of its own")

    def init(self) -> AverageState:
        """The state before the first average."""
        return AverageState(0, None)

    def update(self, params: Parameters, state: AverageState, step: int) -> AverageState:
        """The state after `step` updates of the parameters; the same state where no average is due."""
        if not due(step, self.start, self.cycle, self.include_start):
            return state
        count = state.n_averaged + 1
        return AverageState(count, {
            name: self.include(weight, None if state.value is None else state.value[name], count,
                               Draw(self.seed, tensor, count))
            for tensor, (name, weight) in enumerate(params.items())
        })

    def include(self, weight: Array, value: Array | None, count: Any, draw: Draw) -> Any:
        """What is kept of one tensor's iterates, this weight, the `count`-th, included.

        `count` is an int or a floating 0-d array; `value` is what was kept before: None, or zeros, for the first.
        """
        before = 0 if value is None else value
        if self.exact is not None:
            return before + _units(weight, self.exact)
        if self.quantizer is None:
            return before + weight
        return apply(self.quantizer, before + (weight - before) / count, draw, "average")

    def average(self, state: AverageState, dtype: str = "float32") -> dict[str, Array]:
        """The averaged parameters. ValueError before the first average.

        `dtype` counts for `exact` averages, whose quotient is rounded to it once.
        """
        if state.value is None:
            raise ValueError(f"nothing averaged yet: averaging starts after step {self.start}, every {self.cycle}")
        if self.quantizer is not None:
            return dict(state.value)
        if self.exact is not None:
            divisor = state.n_averaged * 2.0**self.exact.fraction
            return {name: (value / divisor).astype(dtype) for name, value in state.value.items()}
        return {name: value / state.n_averaged for name, value in state.value.items()}


def _units(weight: Array, format: Fixed) -> Array:
    """Fixed-point weights as integers. ValueError where they are not on the grid (NaN never is)."""
    scaled = weight.astype("float64") * 2.0**format.fraction
    if not (scaled % 1 == 0).all():
        raise ValueError(f"an exact average needs finite weights on the grid of {format}; quantize them to it, or "
                         "leave out exact=")
    return scaled.astype("int64")
