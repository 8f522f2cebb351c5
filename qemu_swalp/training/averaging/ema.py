"""The exponential moving average of iterates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..._util.checks import check_bool
from ...arrays import Array
from ..tensor_rounding import TensorRandomBits, apply
from .base import AverageState, TensorwisePolicy


@dataclass(frozen=True)
class EMA(TensorwisePolicy):
    """w̄ ← Q(w̄ + (1 - d)·(w - w̄)), starting at the first iterate that is due: an average over about
    1/(1 - d) iterates.

    Parameters
    ----------
    start, cycle, include_start, seed, nonfinite : as in `Policy`.
    quantizer : Q, applied each time. To nearest it stalls once (1 - d)·|w - w̄| is below half a
        quantum; stochastic rounding does not.
    decay : d, at least 0 and below 1.
    warmup : whether the decay of the n-th update after the first iterate is
        min(d, (1 + n)/(10 + n)), so that the first iterates soon lose their weight. TensorFlow's
        `ExponentialMovingAverage` with `num_updates` does so.

    >>> import numpy as np
    >>> ema = EMA(decay=0.75)
    >>> state = ema.init()
    >>> for step, weight in enumerate([4.0, 8.0, 8.0], 1):
    ...     state = ema.update({"w": np.float32([weight])}, state, step)
    >>> state.n_averaged, ema.average(state)["w"].tolist()
    (3, [5.75])
    """

    decay: float = 0.999
    warmup: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.decay, bool) or not isinstance(self.decay, int | float):
            raise TypeError(f"decay must be a number, got {self.decay!r}")
        if not 0 <= self.decay < 1:
            raise ValueError(
                f"decay must be at least 0 and below 1, got {self.decay}; 0 keeps the last iterate"
            )
        check_bool("warmup", self.warmup)

    def include(
        self, weight: Array, value: Array | None, count: int, draw: TensorRandomBits
    ) -> Any:
        """The average of one tensor with this weight, the `count`-th; `value` is the one before."""
        if value is None:
            return apply(self.quantizer, 1 * weight, draw, "average")
        decay = min(self.decay, count / (count + 9)) if self.warmup else self.decay
        return apply(self.quantizer, value + (1 - decay) * (weight - value), draw, "average")

    def mean(self, state: AverageState, value: dict[str, Array], dtype: str) -> dict[str, Array]:
        return dict(value)
