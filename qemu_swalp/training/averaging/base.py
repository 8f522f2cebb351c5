"""What every averaging policy shares: its state, when an iterate is due, `init`, `update`,
`average`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, Self

from ..._util.checks import check_bool, check_choice, check_int
from ...arrays import Array, namespace_of
from ...formats import Format
from ...formats.axis_words import Layout
from ...ops.quantizer import Quantizer
from ..layouts import resolved_for
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


NONFINITE = ("raise", "skip", "include")
"""What may become of an iterate that is due and has an infinity or NaN."""


def nonfinite_names(params: Mapping[str, Array]) -> list[str]:
    """Names of the arrays that hold an infinity or NaN; of traced arrays it is not known.

    >>> import numpy as np
    >>> nonfinite_names({"w": np.float32([1, np.nan]), "b": np.float32([0])})
    ['w']
    """
    by_library: dict[Any, dict[str, Array]] = {}
    for name, array in params.items():
        xp = namespace_of(array)
        if xp.concrete(array):
            by_library.setdefault(xp, {})[name] = array
    return [
        name
        for xp, arrays in by_library.items()
        if not xp.all_finite(list(arrays.values()))
        for name, array in arrays.items()
        if not xp.all_finite([array])
    ]


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
    seed : of the quantizer's random bits. None: 0; an `Averager` of PyTorch draws another one for
        each of its process.
    nonfinite : what becomes of an iterate that is due and has an infinity or NaN, which would stay
        in an average. "raise" ValueError, "skip" it, so that `n_averaged` does not count it, or
        "include" it unchecked.
    layouts : by the parameter's name, where the quantizer names axes by words (`Format.resolve`);
        the adapters' averages know those of layers. A vector needs none.
    """

    start: int = 0
    cycle: int = 1
    include_start: bool = False
    quantizer: Quantizer | None = None
    seed: int | None = None
    nonfinite: str = field(default="raise", kw_only=True, metadata={"recorded": False})
    layouts: Mapping[str, Layout] | None = field(
        default=None, kw_only=True, compare=False, repr=False, metadata={"recorded": False}
    )

    def __post_init__(self) -> None:
        check_int("start", self.start, 0, 2**62)
        check_int("cycle", self.cycle, 1, 2**62)
        check_bool("include_start", self.include_start)
        if self.seed is not None:
            check_int("seed", self.seed, 0, 2**64 - 1)
        check_choice("nonfinite", self.nonfinite, NONFINITE)
        if self.quantizer is not None:
            object.__setattr__(self, "quantizer", Quantizer.parse(self.quantizer))

    @property
    def drawn_seed(self) -> int:
        """The seed that random bits are drawn by."""
        return self.seed or 0

    def of_tensor(self, name: str, shape: Sequence[int]) -> Self:
        """The policy for one parameter: its quantizer has numbers for axes that are words.

        ValueError if there are words, and the parameter's layout is not known.
        """
        if self.quantizer is None or not self.quantizer.axis_words:
            return self
        layout = (self.layouts or {}).get(name)
        return replace(self, quantizer=resolved_for(self.quantizer, name, tuple(shape), layout))

    def init(self) -> AverageState:
        """The state before the first average."""
        return AverageState(0, None)

    def update(self, params: Parameters, state: AverageState, step: int) -> AverageState:
        """The state after `step` updates of the parameters; the same one where none is due.

        ValueError where an iterate that is due is not finite, unless `nonfinite` says otherwise,
        and where names or shapes are not those of the average so far.
        """
        if not self.due(step):
            return state
        self.check_parameters(params, state)
        return self.add(params, state) if self.admits(params, step) else state

    def check_parameters(self, params: Parameters, state: AverageState) -> None:
        """ValueError unless names and shapes are those of the average so far."""
        if state.value is None:
            return
        value = state.value
        firsts = {name: self.keys(name)[0] for name in params}
        others = set(value) - {key for name in params for key in self.keys(name)}
        differing = [name for name, key in firsts.items() if key not in value]
        if differing or others:
            raise ValueError(
                "the parameters must be those of the average so far; in one only: "
                f"{', '.join(sorted([*differing, *others]))}"
            )
        for name, weight in params.items():
            kept = value[firsts[name]]
            if not namespace_of(weight).same_shape(weight, kept):
                raise ValueError(
                    f"{name} has shape {tuple(weight.shape)} now, {tuple(kept.shape)} in the"
                    " average so far; begin a new average for a model that was changed"
                )

    def admits(self, params: Parameters, step: int) -> bool:
        """Whether these parameters, which are due after `step` updates, may enter the average.

        ValueError where they are not finite and `nonfinite` is "raise".
        """
        names = [] if self.nonfinite == "include" else nonfinite_names(params)
        if names and self.nonfinite == "raise":
            raise ValueError(
                f"an average needs finite weights, and after step {step} there are infinities or"
                f" NaN in {', '.join(names)}, which would stay in it; make {type(self).__name__}"
                " with nonfinite='skip' to leave such iterates out, or with nonfinite='include' to"
                " average them"
            )
        return not names

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
        for item in fields(self):
            value = getattr(self, item.name)
            if not item.metadata.get("recorded", True):
                continue
            if not callable(value) or isinstance(value, Quantizer):
                plain[item.name] = str(value) if isinstance(value, Quantizer | Format) else value
        return {**plain, "seed": self.drawn_seed}

    def keys(self, name: str) -> list[str]:
        """The keys of `AverageState.value` for a parameter, once there are enough iterates."""
        return [name]

    @abstractmethod
    def add(self, params: Parameters, state: AverageState) -> AverageState:
        """The state with these parameters, which are due. It shares no memory with them."""

    @abstractmethod
    def mean(self, state: AverageState, value: dict[str, Array], dtype: str) -> dict[str, Array]:
        """The averaged parameters; `value` is the state's, which is not None."""

    def requantized(self, average: dict[str, Array], count: int) -> dict[str, Array]:
        """An average of `count` iterates, rounded once."""
        return {
            name: apply(
                self.of_tensor(name, mean.shape).quantizer,
                mean,
                TensorRandomBits(self.drawn_seed, tensor, count),
                "average",
            )
            for tensor, (name, mean) in enumerate(average.items())
        }


class TensorwisePolicy(Policy):
    """A policy that averages each tensor by itself, into one array."""

    def add(self, params: Parameters, state: AverageState) -> AverageState:
        count = state.n_averaged + 1
        before: Mapping[str, Array | None] = dict.fromkeys(params)
        if state.value is not None:
            before = state.value
        return AverageState(
            count,
            {
                name: self.of_tensor(name, weight.shape).include(
                    weight, before[name], count, TensorRandomBits(self.drawn_seed, tensor, count)
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
