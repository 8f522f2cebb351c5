"""The phase that an optimizer is in, and the change to the next one, models included."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

from keras import ops

from qemu_swalp.training import Phases

from .._compat import flat_layers
from ..backend import has_value, tensor
from ..calls.sites import go_to
from ..layers.quantize import Quantize
from .param_plan import ACCUMULATOR, Entry


class Phase:
    """Of an optimizer, by the number of updates that it has made."""

    def __init__(self, optimizer: Any, phases: Phases) -> None:
        self._optimizer, self.phases = optimizer, phases
        self.since = 0
        """The first step of the phase."""
        self.by_hand = False
        """Whether the user has called `change_phase`."""
        self.models: WeakSet[Any] = WeakSet()
        """Those that change with it."""
        self._known: int | None = None
        self._calls = 0
        self._held = 0

    @property
    def until(self) -> int | None:
        """The first step of the next phase."""
        return self.phases.until(self.since)

    # --- how many updates were made at most since they were last counted: to count them waits for
    # the device

    @property
    def known(self) -> int | None:
        """Number of updates when they were last counted."""
        return self._known

    def may_be_over(self, calls: int = 0) -> bool:
        """Whether the phase may be over after so many further calls of the optimizer."""
        if self._known is None:
            return True
        return self.until is not None and self._known + self._calls + calls >= self.until

    def called(self, calls: int) -> None:
        """So many more calls were made."""
        self._calls += calls

    def forget(self) -> None:
        """Others have written the number of updates."""
        self._known = None

    # --- the change

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within it nothing changes, or others see to it."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    @property
    def is_held(self) -> bool:
        return self._held > 0

    def after_update(self) -> None:
        """Change if it is time, after an update that no model's `fit` asked for.

        Raises
        ------
        ValueError: if the update is traced in a function that the user compiles, and so cannot.
        """
        if self._held or not self.phases.several:
            return
        if has_value(tensor(self._optimizer.iterations)):
            self.change()
        elif not self.by_hand:
            raise ValueError(
                f"{self.phases!r}: a change of recipe is a change of the program, and this step is"
                " traced in a function of your own. Call optimizer.change_phase() before it is"
                " traced and after each step, and compile the function anew where that returns True"
            )

    def change(self) -> bool:
        """Go on by the recipe of the present step; whether it is another one."""
        self._known, self._calls = int(ops.convert_to_numpy(self._optimizer.iterations)), 0
        since = self.phases.since(self._known)
        if since == self.since:
            return False
        self.enter(since)
        self._optimizer.begin_anew()
        return True

    def enter(self, since: int) -> None:
        """Be in another phase, in whose state all is but the recipes."""
        self.since = since
        for model in self.models:
            change_model(model, since)


def round_as_from(model: Any, since: int) -> None:
    """Have a model round as from a step on."""
    go_to(model, since)
    for layer in flat_layers(model):
        if isinstance(layer, Quantize):
            layer.go_to(since)


def change_model(model: Any, since: int) -> None:
    """The same, and what is compiled of it is so anew."""
    round_as_from(model, since)
    for name in ("train_function", "test_function", "predict_function"):
        if getattr(model, name, None) is not None:
            setattr(model, name, None)


class InPhases:
    """An optimizer whose recipes may follow each other."""

    phase: Phase
    _entries: Sequence[Entry] = ()
    _give_first_value: Callable[[Entry], None]
    """Round one variable, and start the state from it."""

    def change_phase(self) -> bool:
        """Under phases: go on by the recipe of the present step, as `fit`, `train_on_batch` and
        every step that is not compiled do by themselves.

        Call it in a loop whose step you compile, after each: on JAX once the variables hold what
        the step returned.

        Returns
        -------
        whether that is another recipe; compile the step anew then.
        """
        self.phase.by_hand = True
        return self.phase.change()

    def _take_recipes(self) -> None:
        for entry in self._entries:
            entry.recipe = entry.phases.at(self.phase.since)

    def begin_anew(self) -> None:
        """Take the recipes of the present phase, and round by them as before a first step."""
        for entry in self._entries:
            _release_accumulator(entry)
        self._take_recipes()
        for entry in self._entries:
            self._give_first_value(entry)


def _release_accumulator(entry: Entry) -> None:
    """A weight becomes its accumulator, which is what the training has learned."""
    if entry.recipe.accumulator is not None:
        slot = tensor(entry.slots[ACCUMULATOR])
        entry.variable.assign(ops.cast(slot, entry.variable.dtype))
