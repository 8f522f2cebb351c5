"""SWALP's average of the weights (Yang et al. 2019, algorithms 1 and 2): equal weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...arrays import Array
from ...formats import Fixed, Format, parse
from ..tensor_rounding import TensorRandomBits, apply
from .base import AverageState, TensorwisePolicy


@dataclass(frozen=True)
class Averaging(TensorwisePolicy):
    """The equal-weight mean of iterates: SWALP's, and SWA's (Izmailov et al. 2018, arXiv
    1803.05407).

    Parameters
    ----------
    start, cycle, include_start, seed, nonfinite : as in `Policy`.
    quantizer : format of the average itself, applied to the running mean at each iterate. None
        keeps a sum in the weights' dtype, which is exact while it fits the significand: in float32,
        2^16 iterates of 8-bit weights (8 + 16 bits of 24).
    exact : the `Fixed` format of the weights: their sum is an int64, which is never rounded (NumPy
        and CuPy). Weights off its grid raise ValueError.

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

    def include(
        self, weight: Array, value: Array | None, count: Any, draw: TensorRandomBits
    ) -> Any:
        """The running mean, or sum, of one tensor with this weight, the `count`-th.

        `count` is an int or a floating 0-d array; `value` is the mean, or sum, before: None or
        zeros before the first.
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
            return {name: (total / divisor).astype(dtype) for name, total in value.items()}
        return {name: total / state.n_averaged for name, total in value.items()}


def _units(weight: Array, format: Fixed) -> Array:
    """Fixed-point weights as integers. ValueError if one is off the grid, as NaN always is."""
    scaled = weight.astype("float64") * 2.0**format.fraction
    if not (scaled % 1 == 0).all():
        raise ValueError(
            f"an exact average needs finite weights on the grid of {format}; quantize them to it,"
            " or leave out exact="
        )
    return scaled.astype("int64")
