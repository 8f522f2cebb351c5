"""What every averaging policy shares: its state, when an iterate is due, `init`, `update`,
`average`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from ..._util.checks import check_bool, check_int
from ...arrays import Array
from ...formats import Format
from ...ops.quantizer import Quantizer
from ..sgd import Parameters
from ..tensor_rounding import TensorRandomBits, apply


class AverageState(NamedTuple):
    """State of a policy, flat, so that any checkpoint can hold it.

    n_averaged : number of iterates in the average.
    value : arrays by name, from which the policy computes the average; None before the first.
    score : validation score of the average, for policies that use one.
    """

    n_averaged: int
    value: dict[str, Array] | None
    score: float | None = None


def due(step: Any, start: int, cycle: int, include_start: bool = False) -> Any:
    """Whether the weights after `step` updates enter the average: step > start and (step - start)
    divisible by cycle.

    Algorithm 2 of Yang et al. 2019 excludes the weights at `start`, algorithm 1 includes them, as
    does `include_start`. `step` is an int or, for graph libraries, an integer array; the result is
    a bool or an array of bools.
    """
    return ((step > start) | (include_start & (step == start))) & ((step - start) % cycle == 0)


@dataclass(frozen=True)
class Policy(ABC):
    """A rule by which iterates are averaged, as pure functions: `init`, `update`, `average`.

    Parameters
    ----------
    start : number of updates before averaging begins (SWALP's warm-up S).
    cycle : number of updates from one averaged iterate to the next (SWALP's c).
    include_start : whether the weights at `start` count (algorithm 1 of SWALP) or not (algorithm 2,
        the default).
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
        """The state after `step` updates of the parameters; the same one where none is due."""
        return self.add(params, state) if self.due(step) else state

    def due(self, step: int) -> bool:
        """Whether the weights after `step` updates enter the average."""
        return bool(due(step, self.start, self.cycle, self.include_start))

    def average(self, state: AverageState, dtype: str = "float32") -> dict[str, Array]:
        """The averaged parameters, by name.

        `dtype` counts for `exact` averages, whose quotient is rounded to it once. ValueError if
        nothing is averaged yet.
        """
        if state.value is None:
            raise ValueError(
                f"nothing averaged yet: averaging starts after step {self.start}, every"
                f" {self.cycle}"
            )
        return self.mean(state, state.value, dtype)

    def record(self) -> dict[str, Any]:
        """The policy as plain values, for a checkpoint that no other policy may continue."""
        plain: dict[str, Any] = {"policy": type(self).__name__}
        for field in fields(self):
            value = getattr(self, field.name)
            if not callable(value) or isinstance(value, Quantizer):
                plain[field.name] = str(value) if isinstance(value, Quantizer | Format) else value
        return plain

    @abstractmethod
    def add(self, params: Parameters, state: AverageState) -> AverageState:
        """The state with these parameters, which are due. It shares no memory with them."""

    @abstractmethod
    def mean(self, state: AverageState, value: dict[str, Array], dtype: str) -> dict[str, Array]:
        """The averaged parameters; `value` is the state's, which is not None."""

    def requantized(self, average: dict[str, Array], count: int) -> dict[str, Array]:
        """An average of `count` iterates, rounded once."""
        return {
            name: apply(self.quantizer, mean, TensorRandomBits(self.seed, tensor, count), "average")
            for tensor, (name, mean) in enumerate(average.items())
        }


class TensorwisePolicy(Policy):
    """A policy that averages each tensor by itself, into one array."""

    def add(self, params: Parameters, state: AverageState) -> AverageState:
        count = state.n_averaged + 1
        before: Mapping[str, Array | None] = dict.fromkeys(params)
        if state.value is not None:
            before = state.value
        if set(before) != set(params):
            raise ValueError(
                "the parameters must be those of the average so far; in one only: "
                f"{', '.join(sorted(set(before) ^ set(params)))}"
            )
        return AverageState(
            count,
            {
                name: self.include(
                    weight, before[name], count, TensorRandomBits(self.seed, tensor, count)
                )
                for tensor, (name, weight) in enumerate(params.items())
            },
        )

    @abstractmethod
    def include(
        self, weight: Array, value: Array | None, count: Any, draw: TensorRandomBits
    ) -> Any:
        """The state of one tensor with this weight, the `count`-th that is averaged.

        `value` is the state before it, None before the first.
        """
