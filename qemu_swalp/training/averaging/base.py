"""What every averaging policy shares: the state, when an iterate counts, `init`, `update`,
`average`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from ..._util.checks import check_bool, check_int
from ...arrays import Array
from ...formats import Format
from ...ops.quantizer import Quantizer
from ..sgd import Parameters
from ..tensor_rounding import TensorRandomBits, apply


class AverageState(NamedTuple):
    """What a policy keeps, flat, so that any checkpoint can hold it.

    n_averaged : how many iterates were averaged. value : arrays by name; None before the first.
        score : of the average
    on the validation data, where the policy asks for it.
    """

    n_averaged: int
    value: dict[str, Array] | None
    score: float | None = None


def due(step: Any, start: int, cycle: int, include_start: bool = False) -> Any:
    """Whether the weights after `step` updates enter the average: step > start and (step - start)
    divisible by cycle.

    Algorithm 2 leaves the weights at `start` out; algorithm 1 takes them in: `include_start`.
    `step` is an int, or an integer array, as the graph libraries need it; so is the answer a bool,
    or an array of such.
    """
    return ((step > start) | (include_start & (step == start))) & ((step - start) % cycle == 0)


@dataclass(frozen=True)
class Policy(ABC):
    """A rule by which iterates are averaged, as pure functions: `init`, `update`, `average`.

    Parameters
    ----------
    start : number of updates before averaging begins (SWALP's warm-up S).
    cycle : average every so many updates (SWALP's c).
    include_start : whether the weights at `start` count (algorithm 1 of SWALP) or not (algorithm 2,
        default).
    quantizer : of the average itself; None keeps it in the weights' dtype. Each policy says when it
        rounds.
    seed : of the quantizer's random bits.
    """

    start: int = 0
    cycle: int = 1
    include_start: bool = False
    quantizer: Quantizer | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_int("start", self.start, 0, 2**62)
        check_int("cycle", self.cycle, 1, 2**62)
        check_bool("include_start", self.include_start)
        check_int("seed", self.seed, 0, 2**64 - 1)
        if self.quantizer is not None:
            object.__setattr__(self, "quantizer", Quantizer.parse(self.quantizer))

    def init(self) -> AverageState:
        """The state before the first average."""
        return AverageState(0, None)

    def update(self, params: Parameters, state: AverageState, step: int) -> AverageState:
        """The state after `step` updates of the parameters; the same state where no average is
        due.
        """
        return self.take(params, state) if self.due(step) else state

    def due(self, step: int) -> bool:
        """Whether the weights after `step` updates enter the average."""
        return bool(due(step, self.start, self.cycle, self.include_start))

    def average(self, state: AverageState, dtype: str = "float32") -> dict[str, Array]:
        """The averaged parameters. ValueError before the first average.

        `dtype` counts for `exact` averages, whose quotient is rounded to it once.
        """
        if state.value is None:
            raise ValueError(
                f"nothing averaged yet: averaging starts after step {self.start}, every"
                f" {self.cycle}"
            )
        return self.mean(state, state.value, dtype)

    def record(self) -> dict[str, Any]:
        """The rule as plain values, as for a checkpoint, which another rule must not continue."""
        plain: dict[str, Any] = {"policy": type(self).__name__}
        for field in fields(self):
            value = getattr(self, field.name)
            if not callable(value) or isinstance(value, Quantizer):
                plain[field.name] = str(value) if isinstance(value, Quantizer | Format) else value
        return plain

    @abstractmethod
    def take(self, params: Parameters, state: AverageState) -> AverageState:
        """The state once these parameters, an iterate that is due, count. It holds none of their
        memory.
        """

    @abstractmethod
    def mean(self, state: AverageState, value: dict[str, Array], dtype: str) -> dict[str, Array]:
        """The averaged parameters of a state that has averaged; `value` is its own."""

    def requantized(self, average: dict[str, Array], count: int) -> dict[str, Array]:
        """An average of `count` iterates, rounded once."""
        return {
            name: apply(self.quantizer, mean, TensorRandomBits(self.seed, tensor, count), "average")
            for tensor, (name, mean) in enumerate(average.items())
        }
