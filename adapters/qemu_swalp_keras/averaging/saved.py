"""Averages in the files of a model's weights: `save`, `save_weights`, `ModelCheckpoint`,
`BackupAndRestore`, and all that loads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, Protocol
from weakref import ref

import keras
import numpy as np
from keras import ops

from .._compat import SavedBeside, save_beside_weights
from ..optim.swap import standing
from .model_swap import ModelSwap
from .updates import updates_of

NAME, HEADER = "_qemu_swalp_averages", "averages"

State = dict[str, Any]
"""Plain values and NumPy arrays."""


class Average(Protocol):
    """What is kept in the files of a model."""

    key: str

    @property
    def step(self) -> int:
        """The updates that it has seen; -1 before all training."""

    def is_of(self, model: keras.Model) -> bool:
        """Whether it averages this model."""

    def file_state(self) -> State:
        """What files hold of it."""

    def load_file_state(self, state: State) -> None:
        """Inverse of `file_state`."""


class SavedAverages(SavedBeside):
    """The averages of one model by their keys, and those that a file brought and nobody has taken
    yet.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = ref(model)
        self._joined: dict[str, Average] = {}
        self._brought: dict[str, tuple[int | None, State]] = {}

    def join(self, average: Average) -> None:
        """Keep an average in files from now on; it takes what a file has brought of it. One that
        has seen nothing yet does not put out one that has.

        ValueError if the model was trained without it since.
        """
        kept = self._present().get(average.key, average)
        if average.step < 0 <= kept.step:
            return
        self._joined[average.key] = average
        if average.key in self._brought:
            updates, state = self._brought.pop(average.key)
            if updates != (present := self._updates()):
                raise ValueError(
                    f"The file that was loaded has the average {average.key} after {updates}"
                    f" updates of the optimizer, and there are {present} by now: it has not seen"
                    " them. Load the file again and fit with this callback, or give a `name` that"
                    " the file does not have to begin anew"
                )
            average.load_file_state(state)

    def keep(self, averages: Iterable[Average]) -> None:
        """The averages of a training that begins; those of earlier ones are kept no more."""
        self._joined = {average.key: average for average in averages}

    def _present(self) -> dict[str, Average]:
        model = self._model()
        return {} if model is None else {k: a for k, a in self._joined.items() if a.is_of(model)}

    def _updates(self) -> int | None:
        optimizer = getattr(self._model(), "optimizer", None)
        return None if optimizer is None else updates_of(optimizer)

    @property
    def save_own_variables(self) -> Callable[[Any], None]:
        """A model without averages has nothing to save here."""
        if not self._present() and not self._brought:
            raise AttributeError("no averages")
        return self._save

    def _save(self, store: Any) -> None:
        averages: dict[str, Any] = dict(self._brought)
        for key, average in self._present().items():
            averages[key] = self._updates(), average.file_state()
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
        averages, present = header["averages"], self._present()
        if lacking := sorted(set(present) - set(averages)):
            raise ValueError(
                f"The file has the averages {', '.join(averages)}, and not {', '.join(lacking)},"
                " of the last `fit`, which the weights that were loaded do not belong to. Load it"
                " into a model made anew, and make the callbacks with its policies and names"
            )
        for key, (updates, state) in averages.items():
            if key in present:
                present[key].load_file_state(state)
            else:
                self._brought[key] = updates, state
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


def install() -> None:
    """Let the files of all models hold their averages."""
    save_beside_weights(NAME, SavedAverages)
