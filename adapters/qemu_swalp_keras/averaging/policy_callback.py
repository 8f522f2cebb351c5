"""Any averaging policy of the core over a model's weights, on the host, as a callback."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from qemu_swalp._util.checks import check_bool
from qemu_swalp.training import SWAG, AverageState, Policy
from qemu_swalp.training.averaging.saved import check_state

from .._compat import callbacks_beside, flat_layers, own_trainable_variables
from ..backend import synchronize
from ..optim.layouts import with_layouts
from .model_swap import TRAINING, ModelSwap
from .resuming import check_backup
from .saved import averages_of
from .updates import Seen, UpdateCount


class PolicyAverage(keras.callbacks.Callback):
    """Averages the trainable weights during `fit` by a policy: `EMA`, `LAWA`, `ASWA`, `SQWA`,
    `SWAP`, `SWAG`, `Averaging`.

    The policy's `start` and `cycle` count the optimizer's updates that this callback has seen, over
    all calls of `fit`; of a model without an optimizer, batches. Steps that a loss scale skips are
    no updates, and gradient accumulation makes one of several batches. Weights go to the host when
    an average is due: every epoch that costs nothing, every step it does; `QuantizedOptimizer`
    averages in the graph. The policy knows the weights by their variables' paths, as NumPy arrays
    of at least float32. So does the score of `ASWA`, which may look at them in the model within
    `holding`. For several averages pass several callbacks; for evaluation within `fit`,
    `SwapAverage(average=...)`.

    The files of the model hold the average, those of `ModelCheckpoint` and `BackupAndRestore`
    included. A callback of the same policy and name goes on from what was loaded, bit for bit. They
    hold those of the latest training that had some, and what was loaded and not yet gone on from.

    Parameters
    ----------
    policy : a `qemu_swalp.training.Policy`. Axes that its quantizer names by words, as in
        "bfp<8,axis=out>", are those of each variable's layer.
    buffers : whether floating variables that no layer trains, such as batch-normalization
        statistics, are averaged too.
    name : under which files hold the average; None: the policy. Averages of one model by equal
        policies need a name each.

    Raises
    ------
    TypeError: if `policy` is not a `Policy`, or another argument has another type.
    ValueError: during `fit`, if several steps are executed at once and an average is due between
        them; if the quantizer names axes by words, and the layout of a variable is not known; if
        two averages have the same name; beside a `BackupAndRestore` that saves within epochs.

    >>> import keras
    >>> from qemu_swalp.training import EMA
    >>> from qemu_swalp_keras import PolicyAverage
    >>> model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", loss="mse")
    >>> ema, x = PolicyAverage(EMA(decay=0.9)), keras.ops.ones((8, 1))
    >>> _ = model.fit(x, x, batch_size=1, callbacks=[ema], verbose=0)
    >>> with ema.swap():
    ...     _ = model.evaluate(x, x, verbose=0)
    >>> ema.state.n_averaged
    8
    """

    def __init__(self, policy: Policy, *, buffers: bool = False, name: str | None = None) -> None:
        super().__init__()
        if not isinstance(policy, Policy):
            raise TypeError(
                "policy must be a qemu_swalp.training.Policy, such as EMA(decay=0.99), got"
                f" {policy!r}"
            )
        check_bool("buffers", buffers)
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a string or None, got {name!r}")
        self.policy, self.buffers = policy, buffers
        rule = {key: value for key, value in policy.record().items() if key != "seed"}
        self.key = name or json.dumps(rule)
        self.state, self.count, self.seen = policy.init(), UpdateCount(), Seen()
        self._knows_layouts = False

    @property
    def step(self) -> int:
        """The updates that it has seen; -1 before all training."""
        return self.count.step

    @property
    def n_averaged(self) -> int:
        """Number of iterates in the average."""
        return self.state.n_averaged

    # --- the callback

    def set_model(self, model: keras.Model) -> None:
        """Take what a file has brought of the average."""
        super().set_model(model)
        averages_of(model).join(self)

    def on_train_begin(self, logs: Any = None) -> None:
        """The weights at the start may count."""
        check_backup(self)
        alike = [c for c in callbacks_beside(self) if isinstance(c, PolicyAverage)]
        if [c.key for c in alike].count(self.key) > 1:
            raise ValueError(
                f"Two averages have the name {self.key}, by which files of the model tell them"
                " apart. Give each a `name`"
            )
        averages_of(self.model).keep(self, alike)
        if self.step < 0:
            self.count.begin()
            self._include()
        elif self.count.counting:  # a loop of a user's was left by an exception
            self._look()
        self.seen = Seen.all_of(self._model.optimizer)
        self.count.begin()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Batches are numbered from 0 again."""
        self.count.begin_epoch()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """The optimizer may have been built, or loaded, since."""
        if not self.count.counting:
            averages_of(self._model).go_on(self)
            self.seen = Seen.all_of(self._model.optimizer)
        self.count.before_batch(self._model.optimizer)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """The weights after a step."""
        if self.count.after_batch(batch, self.policy.due):
            self._look()

    def on_train_end(self, logs: Any = None) -> None:
        """Count what is not counted yet."""
        self.settle()

    def settle(self) -> None:
        """Count what is not counted yet, and count no more until the next training."""
        try:
            self._look()
        finally:
            self.count.begin()

    def _look(self) -> None:
        """Take note of the updates since the last look."""
        optimizer = self.model.optimizer  # `model` is up to date on JAX, `_model` is not
        if self.count.counting:
            self.seen = Seen.all_of(optimizer)
        if self.count.look(optimizer, self.policy.due):
            self._include()

    def _include(self) -> None:
        if self.policy.due(self.step):
            weights = {v.path: _array(v) for v in self._averaged()}
            self.state = self.policy.update(weights, self.state, self.step)

    def _averaged(self) -> list[Any]:
        """What is averaged, the policy then knowing the layouts."""
        synchronize(self.model)
        found = list(self.model.trainable_variables)
        if self.buffers:
            found += buffers_of(self.model)
        _check_paths(found)
        if not self._knows_layouts:
            self.policy = with_layouts(self.policy, {v.path: v for v in found})
            self._knows_layouts = True
        return found

    # --- the average

    def average(self) -> dict[str, np.ndarray]:
        """The averaged weights by variable path.

        Raises
        ------
        ValueError: if nothing is averaged yet.
        """
        return self.policy.average(self.state)

    def sample(self, index: int = 0, scale: float = 0.5) -> dict[str, np.ndarray]:
        """Weights drawn from the Gaussian of `SWAG`, by variable path; see `SWAG.sample`.
        `holding(weights)` shows them in the model.

        Raises
        ------
        TypeError: if the policy is another one.
        ValueError: if nothing is averaged yet, or an argument is out of range.
        """
        if not isinstance(self.policy, SWAG):
            raise TypeError(
                "sample() needs the policy qemu_swalp.training.SWAG, got"
                f" {type(self.policy).__name__}"
            )
        return self.policy.sample(self.state, index, scale)

    def swap(self) -> ModelSwap:
        """Context within which the model holds the average; at its end, also after an exception,
        exactly what it held.

        That goes for all its weights, so `update_bn` may be called within it. A file that is saved
        within it holds the average as the weights, and the iterate beside it: see
        `restore_iterate`.

        Raises
        ------
        ValueError: if nothing is averaged yet; if an average stands in the model already.
        """
        return self.holding(self.average())

    def holding(self, weights: Mapping[str, np.ndarray]) -> ModelSwap:
        """Context within which the model's averaged variables have these values, by variable
        path.
        """
        return self.swap_of(weights)

    def swap_of(
        self,
        weights: Mapping[str, np.ndarray],
        automatic: bool = False,
        until: tuple[str, ...] = TRAINING,
    ) -> ModelSwap:
        """`holding`, undone by the next use if it is automatic."""
        return ModelSwap(
            self.model,
            lambda: [(v, weights[v.path]) for v in self._averaged()],
            automatic,
            until,
            by_optimizer=False,
        )

    # --- files

    def is_of(self, model: keras.Model) -> bool:
        """Whether it averages this model."""
        return self._model is model

    def file_state(self) -> dict[str, Any]:
        """What files hold of it, weights by their number: their paths differ between sessions."""
        self._look()  # a callback that saves may be called before this one
        return self._file_form()

    def _file_form(self) -> dict[str, Any]:
        kept, variables = self.state.value or {}, self._averaged()
        return {
            "rule": self.policy.record(),
            "step": self.step,
            "n_averaged": self.n_averaged,
            "score": self.state.score,
            "values": {
                number: np.asarray(kept.get(key, np.zeros_like(_array(v))))
                for v, number, key in self._keys(variables)
            },
        }

    def load_file_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `file_state`. ValueError, and no change, where it does not fit."""
        check_state(state, self._file_form(), np.ndarray)
        values, n = state["values"], state["n_averaged"]
        value = {key: values[number] for _, number, key in self._keys(self._averaged())}
        self.policy = replace(self.policy, seed=state["rule"]["seed"])
        self.state = AverageState(n, value if n else None, state["score"])
        self.count = UpdateCount()
        if state["step"] >= 0:
            self.count.begin(state["step"])

    def _keys(self, variables: list[Any]) -> list[tuple[Any, str, str]]:
        """(variable, number in files, key in the state) of all that a state may hold."""
        return [
            (v, f"{i}.{k}", key)
            for i, v in enumerate(variables)
            for k, key in enumerate(self.policy.keys(v.path))
        ]


def buffers_of(model: keras.Model) -> list[Any]:
    """The floating variables of a model that none of its layers trains, frozen or not."""
    trained = {id(v) for layer in flat_layers(model) for v in own_trainable_variables(layer)}
    return [
        v
        for v in model.non_trainable_variables
        if id(v) not in trained and keras.backend.is_float_dtype(v.dtype)
    ]


def _array(variable: Any) -> np.ndarray:
    value = keras.ops.convert_to_numpy(variable)
    return value.astype(np.float32) if variable.dtype in ("float16", "bfloat16") else value


def _check_paths(variables: list[Any]) -> None:
    """ValueError if two have the same path, by which their averages are told apart."""
    twice = [path for path, count in Counter(v.path for v in variables).items() if count > 1]
    if twice:
        raise ValueError(
            f"Several weights have the path {', '.join(twice)}, by which averages are told apart."
            " Give their layers different names"
        )
