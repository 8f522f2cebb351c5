"""SWALP's average within an optimizer: in the graph, saved with the optimizer's variables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from qemu_swalp.training import AverageState, Averaging, due
from qemu_swalp.training.averaging.base import nonfinite_names

from .._compat import calls_of_apply, float32_like
from ..backend import counter, tensor, update_each
from .layouts import with_layouts
from .param_plan import Entry, is_16bit, is_overwritten


class AverageInOptimizer:
    """The average of an optimizer's variables, by the core's rule; without a rule nothing.

    It keeps what `Averaging` keeps of the iterates in variables of the optimizer.
    """

    def __init__(self, optimizer: Any, rule: Averaging | None, seed: int) -> None:
        self._optimizer, self._rule, self._seed = optimizer, rule, seed
        self._entries: Sequence[Entry] = ()
        self._values: list[Any] = []
        self._rules: list[Averaging] = []

    def build(self, entries: Sequence[Entry]) -> None:
        """Make the variables."""
        self._entries = [e for e in entries if not is_overwritten(e.variable)]
        if self._rule is not None:
            self._count = self._optimizer.add_variable(
                (), dtype="int", aggregation="only_first_replica", name="n_averaged"
            )
            self._values = [self._variable_for(entry) for entry in self._entries]
            self._rules = self._rule_of_each(self._rule, self._entries)

    @staticmethod
    def _rule_of_each(rule: Averaging, entries: Sequence[Entry]) -> list[Averaging]:
        """The rule, with numbers for the axes that its quantizer names by words."""
        rule = with_layouts(rule, {entry.name: entry.variable for entry in entries})
        return [rule.of_tensor(entry.name, entry.variable.shape) for entry in entries]

    def _variable_for(self, entry: Entry) -> Any:
        v = entry.variable
        if is_16bit(v):
            return float32_like(self._optimizer, v, f"{entry.name.replace('/', '_')}_swa")
        return self._optimizer.add_variable_from_reference(v, name="swa")

    def start(self) -> None:
        """Include the weights at the start, if they are due."""
        rule = self._rule
        if rule is None or not rule.due(0) or not self._admits():
            return
        self._count.assign(1)
        for value, entry, own in zip(self._values, self._entries, self._rules, strict=True):
            weight = ops.cast(tensor(entry.variable), value.dtype)
            after = own.include(weight, None, 1, entry.draw(self._seed, 1))
            value.assign(self._marked(weight, after))

    def see(self) -> None:
        """Include the weights after an update, if they are due: in graphs by data flow."""
        rule = self._rule
        if rule is None:
            return
        updater = self._optimizer._updater()
        now = due(counter(updater.iterations), rule.start, rule.cycle, rule.include_start)
        accumulates = updater.gradient_accumulation_steps
        if accumulates:  # between updates JAX computes one too, and undoes it
            now = now & (counter(calls_of_apply(updater)) % accumulates == 0)
        if now is False:
            return
        admits = self._admits()
        now = now if admits is True else admits if now is True else now & admits
        if now is False:
            return
        count = tensor(self._count) + ops.cast(now, self._count.dtype)

        def include(i: int, value: Any, variable: Any, now: Any, count: Any) -> None:
            before = tensor(value)
            weight = ops.cast(tensor(variable), value.dtype)
            draw = self._entries[i].draw(self._seed, count)
            after = self._rules[i].include(weight, before, ops.cast(count, value.dtype), draw)
            after = self._marked(weight, after)
            result = after if now is True else ops.where(now, after, before)
            self._optimizer.assign(value, result)

        n = len(self._values)
        variables = [entry.variable for entry in self._entries]
        update_each(include, self._values, variables, [now] * n, [count] * n)
        self._count.assign(count)

    def _admits(self) -> Any:
        """Whether the present weights may enter the average: a bool, or one in the graph."""
        if self._rule is None or self._rule.nonfinite != "skip":
            return True
        each = [ops.all(ops.isfinite(tensor(entry.variable))) for entry in self._entries]
        finite = counter(ops.cast(ops.all(ops.stack(each)), "int32"))
        return bool(finite) if isinstance(finite, int) else finite > 0

    def _marked(self, weight: Any, average: Any) -> Any:
        """The average, NaN where the weight is not finite: its quantizer may make that a number.

        NaN stays NaN in every format and sum, so that `value` finds it.
        """
        if self._rule is None or self._rule.quantizer is None:
            return average
        return ops.where(ops.isfinite(weight), average, float("nan"))

    def count(self) -> int:
        """Number of iterates in the average."""
        return int(ops.convert_to_numpy(self._count)) if self._values else 0

    def value(self) -> dict[str, np.ndarray]:
        """The averaged weights by variable path.

        Raises
        ------
        ValueError: without a rule, and before the first average; if an iterate in it was not
            finite, unless the rule includes such.
        """
        if self._rule is None:
            raise ValueError(
                "This optimizer does not average: make it with `swa_start`, the number of updates"
                " before averaging begins"
            )
        values = {
            entry.name: ops.convert_to_numpy(value)
            for entry, value in zip(self._entries, self._values, strict=True)
        }
        count = self.count()
        average = self._rule.average(AverageState(count, values if count else None))
        if self._rule.nonfinite == "raise" and (names := nonfinite_names(average)):
            raise ValueError(
                f"The average has infinities or NaN in {', '.join(names)}: iterates that entered it"
                " had them. Make the optimizer with swa_nonfinite='skip' to leave such iterates"
                " out, or with swa_nonfinite='include' to average them"
            )
        return average

    def by_variable(self) -> list[tuple[Any, np.ndarray]]:
        """(variable, average) of all variables.

        Raises
        ------
        ValueError: without a rule, and before the first average.
        """
        average = self.value()
        return [(entry.variable, average[entry.name]) for entry in self._entries]

    def write(self) -> None:
        """The average becomes the variables' values."""
        for variable, value in self.by_variable():
            variable.assign(value)
