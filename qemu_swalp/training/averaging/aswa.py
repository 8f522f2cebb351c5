"""Averaging gated by a validation score: ASWA (Demir, Sharma, Ngonga Ngomo 2024, arXiv
2406.19092).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..._util.checks import check_bool
from ...arrays import Array
from ..sgd import Parameters
from .base import AverageState, Policy
from .mean import Averaging

Score = Callable[[Mapping[str, Array]], float]
"""Parameters by name → how good they are on validation data; more is better."""
Decision = Literal["keep", "update", "restart"]


def decide(running: float, ahead: float, average: float, accept_ties: bool = False) -> Decision:
    """ASWA's choice from the scores of the running weights, of the average with them, and of the
    average so far.

    "restart" from the running weights where they beat both averages; else "update" where the
    average gains by them; else "keep" it. NaN never wins.

    >>> decide(0.9, 0.8, 0.7), decide(0.7, 0.8, 0.7), decide(0.7, 0.7, 0.7)
    ('restart', 'update', 'keep')
    >>> decide(0.7, 0.7, 0.7, accept_ties=True)
    'update'
    """
    if running > ahead and running > average:
        return "restart"
    return "update" if ahead > average or (accept_ties and ahead == average) else "keep"


@dataclass(frozen=True)
class ASWA(Policy):
    """An equal-weight mean that adds only iterates which improve its validation score, and restarts
    from weights whose score is better.

    `cycle` is one epoch in the paper, `start` 0. Of the paper the abstract was read, and the
    authors' code (dice-group/dice-embeddings, `dicee/weight_averaging.py`), whose order of
    decisions `decide` follows. There a restart empties the list of weights, so that the next
    accepted iterate replaces the one that the average was restarted from. Here that one counts as
    the first iterate of the new average.

    Parameters
    ----------
    start, cycle, include_start, seed, nonfinite : as in `Policy`.
    quantizer : as in `Averaging`: of the running mean, each time; it is the rounded mean that is
        scored.
    score : function of the parameters by name, called twice for each iterate that is due; needed,
        and no part of `record`.
    accept_ties : whether an iterate that leaves the score as it is is added. In the authors' code
        it is not.

    `n_averaged` counts from the last restart. The state's `score` is that of the average.

    >>> import numpy as np
    >>> aswa = ASWA(score=lambda params: -abs(float(params["w"][0]) - 5))
    >>> state = aswa.init()
    >>> for step, weight in enumerate([1.0, 4.0, 8.0, 9.0], 1):
    ...     state = aswa.update({"w": np.float32([weight])}, state, step)
    ...     print(state.n_averaged, aswa.average(state)["w"].tolist(), state.score)
    1 [1.0] -4.0
    1 [4.0] -1.0
    1 [4.0] -1.0
    1 [4.0] -1.0
    """

    score: Score = field(kw_only=True)
    accept_ties: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.score):
            raise TypeError(
                "score must be a function (parameters by name) -> number, more is better, "
                f"got {self.score!r}"
            )
        check_bool("accept_ties", self.accept_ties)

    @property
    def _rule(self) -> Averaging:
        return Averaging(quantizer=self.quantizer, seed=self.seed, layouts=self.layouts)

    def _score(self, state: AverageState) -> float:
        return float(self.score(self._rule.average(state)))

    def add(self, params: Parameters, state: AverageState) -> AverageState:
        anew = self._rule.add(params, self._rule.init())
        running = self._score(anew)
        if state.value is None:
            return anew._replace(score=running)
        ahead = self._rule.add(params, state)
        score, best = self._score(ahead), self._score(state) if state.score is None else state.score
        return {
            "restart": anew._replace(score=running),
            "update": ahead._replace(score=score),
            "keep": state,
        }[decide(running, score, best, self.accept_ties)]

    def mean(self, state: AverageState, value: dict[str, Array], dtype: str) -> dict[str, Array]:
        return self._rule.mean(state, value, dtype)
