"""Any averaging policy of the core over a model's weights, on the host, as a callback."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from qemu_swalp.training import Policy

from ..backend import synchronize
from ..optim.layouts import with_layouts
from .model_swap import ModelSwap


class PolicyAverage(keras.callbacks.Callback):
    """Averages the trainable weights during `fit` by a policy: `EMA`, `LAWA`, `ASWA`, `SQWA`,
    `SWAP`, `Averaging`.

    The policy's `start` and `cycle` count the steps that this callback has seen, over all calls of
    `fit`. Weights go to the host when an average is due: every epoch that costs nothing, every step
    it does; `QuantizedOptimizer` averages in the graph. The policy knows
    the weights by their variables' paths, as NumPy arrays of at least float32. So does the score of
    `ASWA`, which may look at them in the model within `holding`.

    Parameters
    ----------
    policy : a `qemu_swalp.training.Policy`. Axes that its quantizer names by words, as in
        "bfp<8,axis=out>", are those of each variable's layer.

    Raises
    ------
    TypeError: if `policy` is not a `Policy`.
    ValueError: during `fit`, if several steps are executed at once and an average is due between
        them; if the quantizer names axes by words, and the layout of a variable is not known.

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

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        if not isinstance(policy, Policy):
            raise TypeError(
                "policy must be a qemu_swalp.training.Policy, such as EMA(decay=0.99), got"
                f" {policy!r}"
            )
        self.policy, self.state, self.step = policy, policy.init(), 0

    def on_train_begin(self, logs: Any = None) -> None:
        """The weights at the start may count."""
        if self.step == 0:
            self._note()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Batches are numbered from 0 again."""
        self._batches = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """The weights after a step."""
        unseen = range(self.step + 1, self.step + batch + 1 - self._batches)
        if any(self.policy.due(step) for step in unseen):
            raise ValueError(
                f"An average is due at one of the steps {unseen.start} to {unseen.stop - 1}, which"
                " were executed at once. Compile with steps_per_execution=1, or a divisor of start"
                " and cycle"
            )
        self.step, self._batches = unseen.stop, batch + 1
        self._note()

    def _note(self) -> None:
        if self.policy.due(self.step):
            synchronize(self.model)
            variables = {v.path: v for v in self.model.trainable_variables}
            if self.state.value is None:
                self.policy = with_layouts(self.policy, variables)
            weights = {path: _array(v) for path, v in variables.items()}
            self.state = self.policy.update(weights, self.state, self.step)

    def average(self) -> dict[str, np.ndarray]:
        """The averaged weights by variable path.

        Raises
        ------
        ValueError: if nothing is averaged yet.
        """
        return self.policy.average(self.state)

    def swap(self) -> ModelSwap:
        """Context within which the model holds the average; at its end, also after an exception,
        exactly what it held.

        That goes for all its weights, so `update_bn` may be called within it.

        Raises
        ------
        ValueError: if nothing is averaged yet; if an average stands in the model already.
        """
        return self.holding(self.average())

    def holding(self, weights: Mapping[str, np.ndarray]) -> ModelSwap:
        """Context within which the model's trainable weights have these values, by variable
        path.
        """
        return ModelSwap(
            self.model, lambda: [(v, weights[v.path]) for v in self.model.trainable_variables]
        )


def _array(variable: Any) -> np.ndarray:
    value = keras.ops.convert_to_numpy(variable)
    return value.astype(np.float32) if variable.dtype in ("float16", "bfloat16") else value
