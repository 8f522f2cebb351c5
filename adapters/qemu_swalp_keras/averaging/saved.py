"""Averages in the files of a model's weights: `save`, `save_weights`, `ModelCheckpoint`,
`BackupAndRestore`, and all that loads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, wraps
from typing import Any, Protocol
from weakref import WeakSet, ref

import keras
import numpy as np
from keras import ops

from .._compat import SavedBeside, replace_method, save_beside_weights
from ..optim.swap import standing
from .model_swap import ModelSwap
from .updates import Seen

NAME, HEADER = "_qemu_swalp_averages", "averages"

State = dict[str, Any]
"""Plain values and NumPy arrays."""


class Average(Protocol):
    """What is kept in the files of a model."""

    key: str
    seen: Seen
    """Of the model's updates."""

    def is_of(self, model: keras.Model) -> bool:
        """Whether it averages this model."""

    def file_state(self) -> State:
        """What files hold of it."""

    def load_file_state(self, state: State) -> None:
        """Inverse of `file_state`."""

    def settle(self) -> None:
        """Count what is not counted yet, and count no more until the next training."""


class SavedAverages(SavedBeside):
    """The averages of one model by their keys. Files hold those of the latest training that had
    some, and what a file brought that no training went on from. What a file brings is at once that
    of the averages that are kept and of those that await their training, and of any other when it
    joins, until a training goes on from it.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = ref(model)
        self._kept: dict[str, Average] = {}
        """Of the latest training."""
        self._waiting: dict[str, Average] = {}
        """That have joined since: whether for a training or an evaluation is not known."""
        self._brought: dict[str, tuple[Seen, State]] = {}
        """By the latest file."""
        self._have_it: WeakSet[Average] = WeakSet()
        """What the latest file brought."""

    def join(self, average: Average) -> None:
        """It takes what a file has brought of it, and what the next one brings.

        ValueError if the model was trained without it since, or the file's average was not in the
        file's last training; if the file's count of updates was not loaded into the optimizer.
        """
        key, optimizer = average.key, self._optimizer()
        if self._kept.get(key) is not average:
            self._waiting[key] = average
        if key not in self._brought or average in self._have_it:
            return
        seen, present = self._brought[key][0].by(optimizer), Seen.all_of(optimizer).updates
        if seen is not None and present is not None and present < seen:
            raise ValueError(
                f"The file that was loaded has the average {key} after {seen} updates of the"
                f" optimizer, and that of the model knows of {present}: it is of another kind, or"
                " had no variables to load them into. Compile with the file's kind of optimizer,"
                " build it by model.optimizer.build(model.trainable_variables), and load again; or"
                " give a `name` that the file does not have to begin anew"
            )
        if seen != present:
            raise ValueError(
                f"The file that was loaded has the average {key} after {seen} updates of the"
                f" optimizer, and there are {present} by now: it has not seen them. Load a file"
                " whose last `fit` had the average, and fit with this callback, or give a `name`"
                " that the file does not have to begin anew"
            )
        self._give(average)

    def _give(self, average: Average) -> None:
        seen, state = self._brought[average.key]
        average.load_file_state(state)
        average.seen = seen
        self._have_it.add(average)

    def keep(self, average: Average, beside: Sequence[Average]) -> None:
        """A training begins with these averages, of which one tells that. Those of earlier ones are
        kept no more; without any it is called by hand, and they may be of the same training.
        """
        if beside:
            self._kept, self._waiting = {each.key: each for each in beside}, {}
        else:
            self._kept[average.key] = average
            self._waiting.pop(average.key, None)

    def go_on(self, average: Average) -> None:
        """What a file brought of this average is trained from now on."""
        self._brought.pop(average.key, None)

    def _of_model(self, averages: dict[str, Average]) -> list[Average]:
        """Those that have no other model by now."""
        model = self._model()
        return [] if model is None else [a for a in averages.values() if a.is_of(model)]

    def _optimizer(self) -> Any:
        return getattr(self._model(), "optimizer", None)

    def settle(self) -> None:
        """A training was left by an exception: what it has done is counted now, not when another
        may have followed without these averages. That error is the one that the user sees: others
        that counting may raise, as on JAX, where the step that was left took the weights and the
        optimizer's count, are not of use.
        """
        for average in self._of_model(self._kept):
            with suppress(Exception):
                average.settle()

    @property
    def save_own_variables(self) -> Callable[[Any], None]:
        """A model without averages has nothing to save here."""
        if not self._of_model(self._kept) and not self._brought:
            raise AttributeError("no averages")
        return self._save

    def _save(self, store: Any) -> None:
        optimizer, held = self._optimizer(), dict(self._brought)
        for average in self._of_model(self._kept):
            state = average.file_state()  # which looks for updates
            held[average.key] = average.seen, state
        averages = {key: (seen.by(optimizer), state) for key, (seen, state) in held.items()}
        arrays: list[np.ndarray] = []
        packed = _packed({"averages": averages, "swap": self._swap_state()}, arrays)
        store[HEADER] = np.frombuffer(json.dumps(packed).encode(), np.uint8)
        for i, array in enumerate(arrays):
            store[str(i)] = array

    def load_own_variables(self, store: Any) -> None:
        """A file without averages leaves them as they are.

        ValueError if it has some, but not one that is being kept.
        """
        if HEADER not in store.keys():  # noqa: SIM118  (no mapping)
            return
        header = _unpacked(json.loads(np.array(store[HEADER]).tobytes()), store)
        averages = header["averages"]
        alive = [*self._of_model(self._kept), *self._of_model(self._waiting)]
        if lacking := sorted({average.key for average in alive} - set(averages)):
            raise ValueError(
                f"The file has the averages {', '.join(averages)}, and not {', '.join(lacking)},"
                " of the last `fit`, which the weights that were loaded do not belong to. Load it"
                " into a model made anew, and make the callbacks with its policies and names"
            )
        optimizer = self._optimizer()
        of = None if optimizer is None else ref(optimizer)
        self._brought = {key: (Seen(n, of), state) for key, (n, state) in averages.items()}
        self._have_it = WeakSet()
        for average in alive:
            self._give(average)
        self._hold_again(header["swap"])

    def _swap(self) -> ModelSwap | None:
        """What stands in this model; neither in one that it is a part of, nor by its optimizer."""
        model: Any = self._model()
        swap = standing(model.trainable_variables)
        if not isinstance(swap, ModelSwap) or swap.model is not model or swap.by_optimizer:
            return None
        return swap

    def _swap_state(self) -> State | None:
        """What an average that is in the weights replaced; an optimizer saves that of its own."""
        model: Any = self._model()
        swap = self._swap()
        if swap is None:
            return None
        numbers = {id(v): i for i, v in enumerate(model.weights)}
        return {
            "of": [numbers[id(v)] for v in swap.variables],
            "shown": [ops.convert_to_numpy(v) for v in swap.variables],
            "before": swap.before(swap.variables),
            "kept": swap.kept_before,
        }

    def _hold_again(self, state: State | None) -> None:
        """What was saved with an average as the weights stands so again."""
        model: Any = self._model()
        old = self._swap()
        if old is not None:
            old.forget()
        if state is None:
            return
        if max(state["of"]) >= len(model.weights):
            raise ValueError(
                f"The file holds an average as the weights, and the iterate beside it, and"
                f" {model.name!r} has no weights for them yet. Call it on a batch first, then load"
            )
        variables = [model.weights[i] for i in state["of"]]
        shown = list(zip(variables, state["shown"], strict=True))
        swap = ModelSwap(model, lambda: shown, automatic=True, by_optimizer=False)
        swap.hold(list(zip(variables, state["before"], strict=True)), state["kept"])


def averages_of(model: keras.Model) -> SavedAverages:
    """The averages that a model's files hold."""
    return getattr(model, NAME)


def _packed(x: Any, arrays: list[np.ndarray]) -> Any:
    """For JSON, with numbers in place of arrays."""
    if isinstance(x, np.ndarray):
        arrays.append(x)
        return {"array": len(arrays) - 1}
    if isinstance(x, dict):
        return {key: _packed(part, arrays) for key, part in x.items()}
    return [_packed(part, arrays) for part in x] if isinstance(x, list | tuple) else x


def _unpacked(x: Any, store: Any) -> Any:
    if isinstance(x, dict):
        if set(x) == {"array"}:
            return np.array(store[str(x["array"])])
        return {key: _unpacked(part, store) for key, part in x.items()}
    return [_unpacked(part, store) for part in x] if isinstance(x, list) else x


def _settling(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def fit(model: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(model, *args, **kwargs)
        except BaseException:
            averages_of(model).settle()
            raise

    return fit


@cache
def install() -> None:
    """Let the files of all models hold their averages, and these know where `fit` was left, once
    in a process.
    """
    save_beside_weights(NAME, SavedAverages)
    replace_method(keras.Model, "fit", _settling)
