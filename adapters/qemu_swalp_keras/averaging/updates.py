"""How many updates a model has had, told from the batches that `fit` counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import ref

import keras

Due = Callable[[int], bool]


def updates_of(optimizer: Any) -> int:
    """How many updates an optimizer has made: steps that a loss scale skips are none, and gradient
    accumulation makes one of several. Of a `MultiOptimizer` those of the one that made the most.
    """
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None:
        return updates_of(inner)
    if isinstance(optimizer, keras.optimizers.MultiOptimizer):
        return max((updates_of(part) for part in optimizer.optimizers), default=0)
    return int(keras.ops.convert_to_numpy(optimizer.iterations))


@dataclass(frozen=True)
class Seen:
    """How many updates of a model's optimizer an average has seen, those before its training
    included.
    """

    updates: int | None = None
    """None: of a model without an optimizer."""
    of: ref[Any] | None = None
    """The optimizer that made them."""

    @staticmethod
    def all_of(optimizer: Any) -> Seen:
        """The updates until now."""
        return Seen() if optimizer is None else Seen(updates_of(optimizer), ref(optimizer))

    def by(self, optimizer: Any) -> int | None:
        """How many of them this optimizer has made: none, if it was made since."""
        if optimizer is None or (self.of is not None and self.of() is optimizer):
            return self.updates
        return 0


class UpdateCount:
    """Counts the updates of a model's optimizer, which it asks only when one may be due; of a model
    without an optimizer the batches.
    """

    def __init__(self) -> None:
        self.step = -1
        """Updates known of; -1 before all training."""
        self._since: int | None = None
        """What the optimizer counts less `step`; None: to be looked up."""
        self._batches = self._unread = self._in_epoch = 0
        self._wanted = False

    @property
    def counting(self) -> bool:
        """Whether it counts now, or did so until an exception."""
        return self._since is not None

    def begin(self, step: int | None = None) -> None:
        """From the next batch on count anew, from a step if it is given."""
        self.step = max(self.step if step is None else step, 0)
        self._since, self._unread, self._wanted = None, 0, False

    def begin_epoch(self) -> None:
        """Batches are numbered from 0 again."""
        self._in_epoch = 0

    def before_batch(self, optimizer: Any) -> None:
        """Look up where to count from."""
        if self._since is None:
            self._since = self._present(optimizer) - self.step

    def after_batch(self, batch: int, due: Due) -> bool:
        """Whether a step may be due by now; `batch` is the number of the last one in its epoch."""
        known = self.step + self._unread
        new, self._in_epoch = batch + 1 - self._in_epoch, batch + 1
        self._batches += new
        self._unread += new
        self._wanted = self._wanted or any(map(due, range(known + 1, known + new + 1)))
        return self._wanted

    def look(self, optimizer: Any, due: Due) -> bool:
        """Ask the optimizer. Whether there were updates since it was asked.

        ValueError if a step was due of which the weights are gone.
        """
        if self._since is None:
            return False
        before, self._unread, self._wanted = self.step, 0, False
        self.step = max(before, self._present(optimizer) - self._since)
        if any(map(due, range(before + 1, self.step))):
            raise ValueError(
                f"An average is due at one of the steps {before + 1} to {self.step - 1}, which were"
                " executed at once. Compile with steps_per_execution=1, or a divisor of start and"
                " cycle"
            )
        return self.step > before

    def _present(self, optimizer: Any) -> int:
        return self._batches if optimizer is None else updates_of(optimizer)
