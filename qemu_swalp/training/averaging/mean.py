"""SWALP's average of the weights (Yang et al. 2019, algorithms 1 and 2): equal weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...arrays import Array
from ...formats import Fixed, Format, parse
from ..sgd import Parameters
from ..tensor_rounding import TensorRandomBits, apply
from .base import AverageState, Policy


@dataclass(frozen=True)
class Averaging(Policy):
    """The equal-weight mean of iterates: SWALP's, and SWA's (Izmailov et al. 2018, arXiv
    1803.05407).

    Parameters
    ----------
    start, cycle, include_start, seed : as in `Policy`.
    quantizer : format of the average itself, applied to the running mean each time; None keeps a
        sum in the weights' dtype, which is exact as long as it fits the significand: for 8-bit
        weights over 2^16 averages in float32.
    exact : a `Fixed` format that the weights are in: the sum is kept in int64, with no rounding
        ever (NumPy and CuPy). Weights off its grid raise ValueError.

    >>> import numpy as np
    >>> averaging = Averaging(start=10, cycle=2)
    >>> state = averaging.init()
    >>> for step in range(1, 15):
    ...     state = averaging.update({"w": np.float32([step])}, state, step)
    >>> state.n_averaged, averaging.average(state)["w"].tolist()
    (2, [13.0])
    """

    exact: Fixed | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.exact is not None:
            exact: Format = parse(self.exact)
            if not isinstance(exact, Fixed):
                raise TypeError(
                    f"exact must be a fixed-point format, whose sums are integers, got {exact}"
                )
            object.__setattr__(self, "exact", exact)
            if self.quantizer is not None:
                raise ValueError(
                    "exact and quantizer exclude each other: an exact average has no format of"
                    " its own"
                )

    def take(self, params: Parameters, state: AverageState) -> AverageState:
        count = state.n_averaged + 1
        return AverageState(
            count,
            {
                name: self.include(
                    weight,
                    None if state.value is None else state.value[name],
                    count,
                    TensorRandomBits(self.seed, tensor, count),
                )
                for tensor, (name, weight) in enumerate(params.items())
            },
        )

    def include(
        self, weight: Array, value: Array | None, count: Any, draw: TensorRandomBits
    ) -> Any:
        """What is kept of one tensor's iterates, this weight, the `count`-th, included.

        `count` is an int or a floating 0-d array; `value` is what was kept before: None, or zeros,
        for the first.
        """
        before = 0 if value is None else value
        if self.exact is not None:
            return before + _units(weight, self.exact)
        if self.quantizer is None:
            return before + weight
        return apply(self.quantizer, before + (weight - before) / count, draw, "average")

    def mean(self, state: AverageState, value: dict[str, Array], dtype: str) -> dict[str, Array]:
        if self.quantizer is not None:
            return dict(value)
        if self.exact is not None:
            divisor = state.n_averaged * 2.0**self.exact.fraction
            return {name: (kept / divisor).astype(dtype) for name, kept in value.items()}
        return {name: kept / state.n_averaged for name, kept in value.items()}


def _units(weight: Array, format: Fixed) -> Array:
    """Fixed-point weights as integers. ValueError where they are not on the grid (NaN never is)."""
    scaled = weight.astype("float64") * 2.0**format.fraction
    if not (scaled % 1 == 0).all():
        raise ValueError(
            f"an exact average needs finite weights on the grid of {format}; quantize them to it,"
            " or leave out exact="
        )
    return scaled.astype("int64")
