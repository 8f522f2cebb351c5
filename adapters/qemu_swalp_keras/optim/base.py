"""What our optimizers share: settings, the average in the optimizer, and its way into the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from qemu_swalp.training import AverageState, due

from ..backend import counter, eagerly, rounded, tensor, untraced, update_each
from .config import Settings
from .param_plan import Entry, check_state_names


class QuantizedBase(keras.optimizers.Optimizer):
    """Base of `QuantizedOptimizer` and `SGD`; not made by itself."""

    def _configure(self, settings: Settings) -> None:
        self._settings = settings
        self._entries: Sequence[Entry] = ()
        self._values: list[Any] = []

    def _stepping(self) -> Any:
        """The optimizer whose iterations count."""
        return self

    @property
    def recipe(self) -> Any:
        """The `qemu_swalp.training.Recipe`."""
        return self._settings.recipe

    @property
    def seed(self) -> int:
        """Seed of the random bits."""
        return self._settings.seed

    # --- rounding
    # -----------------------------------------------------------------------------------------------

    def _follow(self, entries: list[Entry]) -> None:
        """Take up the entries of the variables, which `build` has made. ValueError where the recipe
        does not fit.
        """
        check_state_names(entries, self._settings.recipe)
        for entry in entries:
            if entry.recipe.accumulator is not None and (rewriter := self._rewriter(entry)):
                raise ValueError(
                    f"Variable {entry.name} has {rewriter}, which its accumulator would not obey."
                    " Leave out the one, or the other by an override of the recipe"
                )
        self._entries = tuple(entries)

    def _draw(self, entry: Entry) -> Any:
        """Random bits of the present update."""
        return entry.draw(self._settings.seed, counter(self.iterations))

    @untraced
    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """As every optimizer's; then weights written after the update are rounded, and the average
        takes note.
        """
        self._apply_gradients(grads, trainable_variables)
        if len(grads):
            self._round_rewritten()
            self._take_note()

    def _apply_gradients(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None
    ) -> None:
        super().apply(grads, trainable_variables)

    def _rewriter(self, entry: Entry) -> str:
        """What writes the weight in Keras after its update, if anything."""
        if getattr(entry.variable, "constraint", None) is not None:
            return "a constraint"
        overwritten = self._stepping().use_ema and self._stepping().ema_overwrite_frequency
        return "a moving average that overwrites it" if overwritten else ""

    def _round_rewritten(self) -> None:
        rewritten = [
            entry
            for entry in self._entries
            if entry.recipe.weight is not None and self._rewriter(entry)
        ]

        def round_one(i: int, variable: Any) -> None:
            entry = rewritten[i]
            self.assign(
                variable, rounded(variable, entry.recipe.weight, self._draw(entry), "rewritten")
            )

        if rewritten:
            update_each(round_one, [entry.variable for entry in rewritten])

    # --- SWALP
    # --------------------------------------------------------------------------------------------------

    @property
    def averages(self) -> bool:
        """Whether it was made with `swa_start`."""
        return self._settings.averaging is not None

    @property
    def n_averaged(self) -> int:
        """Number of iterates in the average; 0 without SWALP."""
        return int(ops.convert_to_numpy(self._n_averaged)) if self._values else 0

    def average(self) -> dict[str, np.ndarray]:
        """The averaged weights by variable path, NumPy arrays of at least float32. ValueError
        before the first.
        """
        rule = self._settings.averaging
        if rule is None:
            raise ValueError(
                "This optimizer does not average: make it with `swa_start`, the number of updates"
                " before averaging begins"
            )
        values = {
            entry.name: ops.convert_to_numpy(value)
            for entry, value in zip(self._entries, self._values, strict=True)
        }
        return rule.average(AverageState(self.n_averaged, values if self.n_averaged else None))

    @contextmanager
    def swap(self) -> Iterator[None]:
        """Within it the variables hold the average; at its end, also after an exception, exactly
        what they held.

        ValueError before the first average.
        """
        average = self.average()
        kept = [ops.convert_to_numpy(entry.variable) for entry in self._entries]
        try:
            self._assign_weights(average.values())
            yield
        finally:
            self._assign_weights(kept)

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        """At the end of `fit`: the average becomes the model's weights, with `swa_finalize`."""
        super().finalize_variable_values(var_list)
        self.finalize_average()

    def finalize_average(self) -> None:
        """With `swa_finalize`, once there is one, the average becomes the model's weights."""
        if self._settings.swa_finalize and self.n_averaged:
            self._assign_weights(self.average().values())

    def _assign_weights(self, values: Any) -> None:
        for entry, value in zip(self._entries, values, strict=True):
            entry.variable.assign(value)

    def _make_average(self) -> None:
        """The last thing that `build` does: the weights at the start may count."""
        rule = self._settings.averaging
        if rule is None:
            return
        self._n_averaged = self.add_variable(
            (), dtype="int", aggregation="only_first_replica", name="n_averaged"
        )
        self._values = [self._average_variable(entry) for entry in self._entries]
        if rule.include_start and rule.start == 0:
            with eagerly():
                self._n_averaged.assign(1)
                for value, entry in zip(self._values, self._entries, strict=True):
                    weight = ops.cast(tensor(entry.variable), value.dtype)
                    value.assign(rule.include(weight, None, 1, entry.draw(self._settings.seed, 1)))

    def _average_variable(self, entry: Entry) -> Any:
        v = entry.variable
        if v.dtype in ("float16", "bfloat16"):
            return self.add_variable(
                v.shape, dtype="float32", name=f"{entry.name.replace('/', '_')}_swa"
            )
        return self.add_variable_from_reference(v, name="swa")

    def _take_note(self) -> None:
        """The weights after an update enter the average where that is due: in graphs by data
        flow.
        """
        rule = self._settings.averaging
        if rule is None:
            return
        steps = self._stepping()
        now = due(counter(steps.iterations), rule.start, rule.cycle, rule.include_start)
        if steps.gradient_accumulation_steps:  # between updates JAX runs one too, and undoes it
            now = now & (counter(steps._iterations) % steps.gradient_accumulation_steps == 0)
        if now is False:
            return
        count = tensor(self._n_averaged) + ops.cast(now, self._n_averaged.dtype)

        def include(i: int, value: Any, variable: Any, now: Any, count: Any) -> None:
            entry, before = self._entries[i], tensor(value)
            weight = ops.cast(tensor(variable), value.dtype)
            after = rule.include(
                weight, before, ops.cast(count, value.dtype), entry.draw(self._settings.seed, count)
            )
            self.assign(value, after if now is True else ops.where(now, after, before))

        same = len(self._values)
        update_each(
            include,
            self._values,
            [entry.variable for entry in self._entries],
            [now] * same,
            [count] * same,
        )
        self._n_averaged.assign(count)
