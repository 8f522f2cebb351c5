"""Averaging over replicas: SWAP (Gupta, Serrano, DeCoste 2020, arXiv 2001.02312)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...arrays import Array
from ..sgd import Parameters
from .base import AverageState, Policy
from .mean import Averaging


@dataclass(frozen=True)
class SWAP(Policy):
    """The equal-weight mean of the weights of independent workers.

    SWAP's phase 1 trains one model with large batches up to a training accuracy. In phase 2 each
    worker refines a copy of its own with small batches. Phase 3 averages the copies, and batch-norm
    statistics are computed anew. Here each worker updates a state of its own in phase 2, and
    `merge` makes one state of theirs. It does so with the last weights alone (`start` one less than
    the number of steps, as in the paper) or along the way. A state of low-precision weights is an
    exact sum (`Averaging`), so neither order nor machine changes a bit of the merged one. An
    all-reduce of `value` and `n_averaged` is as good.

    Parameters
    ----------
    start, cycle, include_start, seed, nonfinite : as in `Policy`.
    quantizer : rounds the merged mean once, when it is asked for.

    >>> import numpy as np
    >>> swap = SWAP(quantizer="fixed<8,2>/nearest_even")
    >>> weights = [np.float32([1]), np.float32([2]), np.float32([2])]
    >>> workers = [swap.update({"w": weight}, swap.init(), 1) for weight in weights]
    >>> swap.average(swap.merge(workers))["w"].tolist()
    [1.75]
    """

    def add(self, params: Parameters, state: AverageState) -> AverageState:
        return Averaging().add(params, state)

    def merge(self, states: Sequence[AverageState]) -> AverageState:
        """The state of all workers together.

        ValueError if there is no worker, if one has averaged nothing, or if the names of their
        parameters differ.
        """
        values = [state.value for state in states if state.value is not None]
        if not values or len(values) < len(states):
            raise ValueError(
                "every worker must have averaged something, and there must be one; got"
                f" {len(states)} states, {len(states) - len(values)} of them empty"
            )
        for value in values:
            if set(value) != set(values[0]):
                raise ValueError(
                    "the workers must have the same parameters; in one only: "
                    f"{', '.join(sorted(set(value) ^ set(values[0])))}"
                )
        first, *rest = values
        total = {
            name: sum((value[name] for value in rest), 1 * array) for name, array in first.items()
        }
        return AverageState(sum(state.n_averaged for state in states), total)

    def mean(self, state: AverageState, value: dict[str, Array], dtype: str) -> dict[str, Array]:
        return self.requantized(Averaging().mean(state, value, dtype), state.n_averaged)
