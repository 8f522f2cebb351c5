"""What our optimizers share: settings, rounding after the update, first values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from qemu_swalp._util.autograph import no_autograph

from .._compat import fit_was_interrupted, index_of, own_variables, reads_state_to_train
from ..backend import (
    as_step,
    counter,
    distinct,
    eagerly,
    initialized,
    rounded,
    untraced,
    update_each,
)
from ..watching import watched
from .average import AverageInOptimizer
from .config import Settings
from .names import Names
from .param_plan import ACCUMULATOR, Entry, check_state_names, entries
from .phases import InPhases, Phase
from .swap import Swap, refused, standing

ITERATE, KEPT = "iterate_", "kept_"
"""Beginnings of the keys under which a file holds what an average replaced."""

SINCE = "phase_since"
"""Key under which it holds the first step of the phase."""


class QuantizedBase(InPhases, keras.optimizers.Optimizer):
    """Base of `QuantizedOptimizer` and `SGD`."""

    def _configure(self, settings: Settings) -> None:
        self._settings = settings
        self.phase = Phase(self, settings.phases)
        self._entries: Sequence[Entry] = ()
        self._average = AverageInOptimizer(self, settings.averaging, settings.seed)
        self._has_first_values = False
        self._step: Any = None

    def _updater(self) -> keras.optimizers.Optimizer:
        """The optimizer whose update is rounded."""
        return self

    @property
    def recipe(self) -> Any:
        """The `qemu_swalp.training.Recipe`, under phases the present one."""
        return self._settings.phases.at(self.phase.since)

    @property
    def seed(self) -> int:
        """Seed of the random bits."""
        return self._settings.seed

    def _with_names(self, names: Names) -> Any:
        """This optimizer, of which a config knew what its recipe names."""
        self._settings = replace(self._settings, names=names)
        return self

    # --- building

    def _entries_of(self, variables: Sequence[Any]) -> list[Entry]:
        """What is rounded of the variables that it is built with.

        Raises
        ------
        TypeError, ValueError: if a variable does not fit the recipe, or a pattern of the recipe's
            overrides matches nothing.
        """
        self._settings = settings = self._settings.settled(variables)
        self.phase.phases = settings.phases
        return entries(variables, settings.phases, settings.names.left_out)

    def _check_plan(self, plan: list[Entry]) -> None:
        """Check the entries once the optimizer has its state.

        Raises
        ------
        ValueError: if the recipe names state that the optimizer lacks, or gives an accumulator to a
            weight that Keras writes by itself.
        """
        check_state_names(plan, self._settings.phases)
        for entry in plan:
            if entry.accumulates and (writer := self._other_writer(entry)):
                raise ValueError(
                    f"Variable {entry.name} has {writer}, which its accumulator would not obey."
                    " Leave out the one, or the other by an override of the recipe"
                )

    def _finish_build(self, plan: list[Entry]) -> None:
        """The last thing that `build` does."""
        self._entries = tuple(plan)
        self._take_recipes()
        self._average.build(self._entries)
        self._give_first_values()

    def _give_first_values(self) -> None:
        """Round the variables and start the state from them, once they have values.

        A model that TensorFlow builds while it traces a function has them when it traces the
        function again, which it does before the first step runs.
        """
        variables = [entry.variable for entry in self._entries]
        if self._has_first_values or not initialized([*variables, *self.variables]):
            return
        with eagerly():
            for entry in self._entries:
                self._give_first_value(entry)
            self._average.start()
        self._has_first_values = True

    def _give_first_value(self, entry: Entry) -> None:
        """Start the state of one variable from it."""
        if ACCUMULATOR in entry.slots:
            entry.slots[ACCUMULATOR].assign(distinct(entry.variable))

    # --- the update

    @property
    def variables(self) -> list[Any]:
        """The optimizer's variables."""
        if self._standing() is not None and reads_state_to_train():
            raise refused()
        return self._all_variables()

    def _all_variables(self) -> list[Any]:
        return own_variables(self)

    def _draw(self, entry: Entry) -> Any:
        """Random bits of the present update."""
        step = self._present_step() if self._step is None else self._step
        return entry.draw(self._settings.seed, step)

    def _present_step(self) -> Any:
        return as_step(counter(self.iterations))

    @contextmanager
    def _in_one_step(self) -> Iterator[None]:
        """Within it the number of updates is read once for all variables."""
        self._step = self._present_step()
        try:
            yield
        finally:
            self._step = None

    @untraced
    @no_autograph
    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """As every optimizer's; then weights that Keras wrote after their update are rounded, and
        the average sees the weights.

        Raises
        ------
        ValueError: if an average stands in the weights.
        """
        if self.built:
            self._give_first_values()
            if self._standing() is not None:
                raise refused()
        with self._in_one_step():
            self._apply_gradients(grads, trainable_variables)
        if len(grads):
            self._round_rewritten()
            self._store_16bit()
            self._average.see()
            self.phase.after_update()

    def _apply_gradients(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None
    ) -> None:
        super().apply(grads, trainable_variables)

    def _store_16bit(self) -> None:
        """Write variables for which others stand in."""

    def _entry(self, variable: Any) -> Entry:
        return self._entries[index_of(self, variable)]

    def _other_writer(self, entry: Entry) -> str:
        """What writes the weight in Keras after its update; "" for nothing."""
        if getattr(entry.variable, "constraint", None) is not None:
            return "a constraint"
        overwrites = self._updater().use_ema and self._updater().ema_overwrite_frequency
        return "a moving average that overwrites it" if overwrites else ""

    def _round_rewritten(self) -> None:
        rewritten = [
            entry
            for entry in self._entries
            if entry.recipe.weight is not None and self._other_writer(entry)
        ]

        def round_one(i: int, variable: Any) -> None:
            entry = rewritten[i]
            draw = self._draw(entry)
            self.assign(variable, rounded(variable, entry.recipe.weight, draw, "rewritten"))

        if rewritten:
            update_each(round_one, [entry.updated for entry in rewritten])

    @property
    def built_with(self) -> list[Any]:
        """The variables that it was built with."""
        return [entry.variable for entry in self._entries]

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within it those who watch are told of the roundings of each update."""
        recipes = [entry.recipe for entry in self._entries]
        try:
            for entry in self._entries:
                entry.recipe = watched(entry.recipe, entry.name)
            yield
        finally:
            for entry, recipe in zip(self._entries, recipes, strict=True):
                entry.recipe = recipe

    # --- SWALP

    @property
    def averages(self) -> bool:
        """Whether `swa_start` was given."""
        return self._settings.averaging is not None

    @property
    def n_averaged(self) -> int:
        """Number of iterates in the average; 0 without SWALP."""
        return self._average.count()

    def average(self) -> dict[str, Any]:
        """The averaged weights by variable path, as NumPy arrays of float32 or float64.

        Raises
        ------
        ValueError: if `swa_start` was not given, or nothing is averaged yet.
        """
        return self._average.value()

    def average_by_variable(self) -> list[tuple[Any, Any]]:
        """(variable, average) of all variables.

        Raises
        ------
        ValueError: if `swa_start` was not given, or nothing is averaged yet.
        """
        return self._average.by_variable()

    def swap(self) -> Swap:
        """Context within which the variables hold the average; at its end, also after an exception,
        exactly what they held.

        Raises
        ------
        ValueError: if `swa_start` was not given, or nothing is averaged yet; if an average stands
            in the variables already.
        """
        return Swap(self.average_by_variable)

    # --- saving while the average stands in the variables

    def save_own_variables(self, store: Any) -> None:
        """The optimizer's variables; and, while an average stands in the weights, the iterate."""
        self._save_variables(store)
        if self.phase.phases.several:
            store[SINCE] = np.array(self.phase.since)
        if (swap := self._standing()) is not None and swap.by_optimizer:
            weights = swap.before(entry.variable for entry in self._entries)
            for name, values in ((ITERATE, weights), (KEPT, swap.kept_before)):
                for i, value in enumerate(values):
                    store[f"{name}{i}"] = value

    def load_own_variables(self, store: Any) -> None:
        """Inverse of `save_own_variables`: what was saved with the average as the weights stands
        so again.
        """
        held: dict[str, list[Any]] = {ITERATE: [], KEPT: []}
        for name, values in held.items():
            while (key := f"{name}{len(values)}") in store.keys():  # noqa: SIM118  (no mapping)
                values.append(np.array(store[key]))
        if held[ITERATE] and len(held[ITERATE]) != len(self._entries):
            raise ValueError(
                f"The file holds the average as the weights, and beside it {len(held[ITERATE])}"
                f" variables to train on from, and {self.name} was built for"
                f" {len(self._entries)}. Build it first, by"
                " optimizer.build(model.trainable_variables)"
            )
        self._load_variables(
            {key: store[key] for key in store.keys() if not key.startswith((ITERATE, KEPT, SINCE))}  # noqa: SIM118
        )
        self.phase.forget()
        if self.phase.phases.several and SINCE in store.keys():  # noqa: SIM118
            self.phase.enter(int(np.array(store[SINCE])))
            self._take_recipes()
        if (swap := self._standing()) is not None and swap.by_optimizer:
            swap.forget()
        if held[ITERATE]:
            swap = Swap(self.average_by_variable, automatic=True)
            variables = [entry.variable for entry in self._entries]
            swap.hold(list(zip(variables, held[ITERATE], strict=True)), held[KEPT])

    def _save_variables(self, store: Any) -> None:
        super().save_own_variables(store)

    def _load_variables(self, store: Any) -> None:
        super().load_own_variables(store)

    def _standing(self) -> Swap | None:
        entries = getattr(self, "_entries", ())  # Keras asks for variables in `__init__`
        return standing(entry.variable for entry in entries)

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        """At the end of `fit`: the average becomes the model's weights, with `swa_finalize`; not
        after an exception. An average that stood in them is gone before callbacks write others.
        """
        finished = not fit_was_interrupted()
        if finished and (swap := self._standing()) is not None and swap.automatic:
            swap.undo_unless_rewritten()
        self._finalize_ema(var_list)
        if finished:
            self.finalize_average()

    def _finalize_ema(self, var_list: Sequence[Any]) -> None:
        super().finalize_variable_values(var_list)

    @property
    def finalizes(self) -> bool:
        """Whether `fit` leaves the average in the model."""
        return self._settings.swa_finalize and bool(self.n_averaged)

    def finalize_average(self) -> None:
        """With `swa_finalize`, once there is one, the average becomes the model's weights."""
        if self.finalizes:
            self._average.write()
