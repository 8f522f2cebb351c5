"""The mean of the latest iterates: LAWA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..._util.checks import check_int
from ...arrays import Array
from ..sgd import Parameters
from .base import AverageState, Policy


@dataclass(frozen=True)
class LAWA(Policy):
    """Latest weight averaging: the equal-weight mean of the latest `size` iterates, of fewer at
    first.

    The paper (Kaddour 2022, arXiv 2209.14981) averages the checkpoints of the last epochs; later
    work averages checkpoints that are some hundred steps apart, which is `cycle`. The state holds
    `size` copies of the weights, of which an update replaces the oldest: iterate n lies under
    "NAME@SLOT", SLOT = (n - 1) mod size.

    Parameters
    ----------
    start, cycle, include_start, seed, nonfinite : as in `Policy`.
    quantizer : rounds the mean once, when it is asked for.
    size : number of iterates, at least 1.

    >>> import numpy as np
    >>> lawa = LAWA(size=3)
    >>> state = lawa.init()
    >>> for step in range(1, 6):
    ...     state = lawa.update({"w": np.float32([step])}, state, step)
    >>> state.n_averaged, sorted(state.value), lawa.average(state)["w"].tolist()
    (5, ['w@0', 'w@1', 'w@2'], [4.0])
    """

    size: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("size", self.size, 1, 2**31)

    def record(self) -> dict[str, Any]:
        """As `Policy.record`, under the name that checkpoints of the first drafts have for it."""
        return super().record() | {"policy": "Window"}

    def keys(self, name: str) -> list[str]:
        return [f"{name}@{slot}" for slot in range(self.size)]

    def add(self, params: Parameters, state: AverageState) -> AverageState:
        slot = state.n_averaged % self.size
        return AverageState(
            state.n_averaged + 1,
            {
                **(state.value or {}),
                **{f"{name}@{slot}": 1 * weight for name, weight in params.items()},
            },
        )

    def mean(self, state: AverageState, value: dict[str, Array], dtype: str) -> dict[str, Array]:
        count = min(state.n_averaged, self.size)
        names = [key.removesuffix("@0") for key in value if key.endswith("@0")]
        sums = {
            name: sum((value[f"{name}@{slot}"] for slot in range(1, count)), value[f"{name}@0"])
            for name in names
        }
        return self.requantized(
            {name: total / count for name, total in sums.items()}, state.n_averaged
        )
