"""Other values in variables, until they are undone: explicitly or by the next use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from keras import ops

ATTRIBUTE = "_qemu_swap"
"""Attribute of a variable: the swap that stands in it."""

Values = Callable[[], Iterable[tuple[Any, Any]]]
"""Makes (variable, value to hold within the swap) of all variables."""


class Swap:
    """A context within which variables hold other values; at its end, also after an exception, they
    hold exactly what they held.

    It is an object with a state, not a generator: what collects garbage undoes nothing.

    Parameters
    ----------
    values : variables and what they shall hold; called again when a change is looked for.
    kept : further variables, whose values at the beginning come back too.
    automatic : whether the next use undoes the swap. If not, the next use is refused.
    by_optimizer : whether the values are an optimizer's average, which then saves what they
        replaced.
    """

    def __init__(
        self,
        values: Values,
        kept: Sequence[Any] = (),
        automatic: bool = False,
        by_optimizer: bool = True,
    ) -> None:
        self._values, self._kept = values, kept
        self.automatic, self.by_optimizer = automatic, by_optimizer
        self._before: list[tuple[Any, np.ndarray]] = []
        self._kept_before: list[np.ndarray] = []

    @property
    def stands(self) -> bool:
        """Whether the variables hold the other values."""
        return bool(self._before)

    def __enter__(self) -> Any:
        pairs = list(self._values())
        before_use(variable for variable, _ in pairs)
        self.hold(
            [(v, ops.convert_to_numpy(v)) for v, _ in pairs],
            [ops.convert_to_numpy(v) for v in self._kept],
        )
        try:
            for variable, value in pairs:
                variable.assign(value)
        except BaseException:
            self.undo()
            raise
        return None

    def __exit__(self, *exception: object) -> None:
        self.undo()

    def hold(self, before: list[tuple[Any, np.ndarray]], kept: list[np.ndarray]) -> None:
        """Stand from now on, with what the variables, and those kept, held before."""
        self._before, self._kept_before = before, kept
        for variable, _ in before:
            setattr(variable, ATTRIBUTE, self)

    @property
    def variables(self) -> list[Any]:
        """Those that hold other values."""
        return [variable for variable, _ in self._before]

    def before(self, variables: Iterable[Any]) -> list[np.ndarray]:
        """What variables held before the swap."""
        values = {id(variable): value for variable, value in self._before}
        return [values[id(variable)] for variable in variables]

    @property
    def kept_before(self) -> list[np.ndarray]:
        """What the kept variables held before the swap."""
        return self._kept_before

    def keep(self, variables: Sequence[Any]) -> None:
        """Name the kept variables of a swap that came from a file."""
        if not self._kept and len(variables) == len(self._kept_before):
            self._kept = variables

    def undo(self) -> None:
        """Give the variables back what they held; without effect where nothing stands."""
        if self.stands:
            for variable, value in self._before:
                variable.assign(value)
            for variable, value in zip(self._kept, self._kept_before, strict=False):
                variable.assign(value)
            self.forget()

    def was_rewritten(self) -> bool:
        """Whether the variables hold other values than the swap gave them."""
        return any(_differs(variable, value) for variable, value in self._values())

    def undo_unless_rewritten(self) -> bool:
        """Undo it, unless somebody has written the variables since, who then has the last word.

        Whether it was undone.
        """
        if self.was_rewritten():
            self.forget()
            return False
        self.undo()
        return True

    def forget(self) -> None:
        """Leave the variables as they are."""
        for variable, _ in self._before:
            if getattr(variable, ATTRIBUTE, None) is self:
                delattr(variable, ATTRIBUTE)
        self._before, self._kept_before = [], []


def standing(variables: Iterable[Any]) -> Swap | None:
    """The swap that stands in one of the variables."""
    return next(
        (swap for v in variables if (swap := getattr(v, ATTRIBUTE, None)) is not None), None
    )


def before_use(variables: Iterable[Any]) -> None:
    """Undo the swap that stands in variables, if the next use may do so.

    Raises
    ------
    ValueError: if it may not.
    """
    swap = standing(variables)
    if swap is not None and swap.automatic:
        swap.undo_unless_rewritten()
    elif swap is not None:
        raise refused()


def refused() -> ValueError:
    """Of a use of weights in which a swap stands."""
    return ValueError(
        "An average stands in the weights, and the iterate, which training goes on from, beside"
        " them. Leave the `with` block of the swap first; if it is lost, or the weights were saved"
        " in it, call restore_iterate(model). For a training from the average on, copy it by"
        " set_weights into a model of its own"
    )


def _differs(variable: Any, value: Any) -> bool:
    expected = ops.convert_to_numpy(ops.cast(ops.convert_to_tensor(value), variable.dtype))
    return ops.convert_to_numpy(variable).tobytes() != expected.tobytes()
