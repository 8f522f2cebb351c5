"""The average in a model, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, wraps
from typing import Any

import keras
import numpy as np

from .._compat import before_calls, replace_method
from ..backend import strategy_scope, synchronize
from ..optim.base import QuantizedBase
from ..optim.swap import Swap, Values, before_use, refused, standing
from .update_bn import batch_statistics, warn_of_statistics

TRAINING = ("make_train_function",)
EVALUATION = ("make_test_function", "make_predict_function")
"""Methods of a model that `fit`, `train_on_batch`, `evaluate`, … call first."""


class ModelSwap(Swap):
    """A `Swap` in the weights of a model, the ones that are not trained included.

    Parameters
    ----------
    model : which holds the values, and is what `with` gives.
    values, automatic, by_optimizer : as in `Swap`; what is refused is training.
    until : before which calls of the model the automatic swap is undone.
    """

    def __init__(
        self,
        model: keras.Model,
        values: Values,
        automatic: bool = False,
        until: tuple[str, ...] = TRAINING,
        by_optimizer: bool = True,
    ) -> None:
        super().__init__(values, model.non_trainable_weights, automatic, by_optimizer)
        self.model, self.until = model, until
        self._remove_guards: list[Callable[[], None]] = []
        self._was_set = False

    def __enter__(self) -> keras.Model:
        synchronize(self.model)
        super().__enter__()
        if not self.automatic:
            self._remove_guards.append(before_calls(self.model, EVALUATION, self._check_statistics))
        self._statistics = batch_statistics(self.model)
        return self.model

    def hold(self, before: list[tuple[Any, np.ndarray]], kept: list[np.ndarray]) -> None:
        super().hold(before, kept)
        self._remove_guards = [
            before_calls(self.model, self.until, self._before_call),
            before_calls(self.model, ("set_weights",), self._note_that_it_is_set),
        ]

    def _note_that_it_is_set(self) -> None:
        """Others have the last word, also where they give the very same values."""
        self._was_set = True

    def _check_statistics(self) -> None:
        """Warn where the average is evaluated with the statistics of the iterates."""
        present = batch_statistics(self.model)
        if present and all(map(np.array_equal, self._statistics, present)):
            warn_of_statistics(self.model, "update_bn(data, model) within the swap")

    def _before_call(self) -> None:
        if not self.automatic:
            raise refused()
        self.undo_unless_rewritten()

    def undo(self) -> None:
        if self.stands:
            synchronize(self.model)
        super().undo()

    def was_rewritten(self) -> bool:
        synchronize(self.model)
        return self._was_set or super().was_rewritten()

    def undo_unless_rewritten(self) -> bool:
        synchronize(self.model)
        return super().undo_unless_rewritten()

    def forget(self) -> None:
        super().forget()
        for remove in self._remove_guards:
            remove()


def averaging_optimizers(model: keras.Model) -> list[QuantizedBase]:
    """The optimizers of a compiled model that average, those within wrappers included.

    A `MultiOptimizer` may know its optimizers only once it is built; so it is, if the model is.
    Optimizers without variables are left out then.

    Raises
    ------
    ValueError: if there is none.
    """
    optimizer = getattr(model, "optimizer", None)
    found = [o for o in quantized_within(optimizer) if o.averages]
    if not found and model.built and optimizer is not None and not optimizer.built:
        with strategy_scope(model):
            optimizer.build(model.trainable_variables)
        found = [o for o in quantized_within(optimizer) if o.averages]
    if optimizer is not None and optimizer.built:
        found = [o for o in found if o.built]
    if not found:
        raise ValueError(
            "The model's optimizer does not average. Compile it with a `qemu_swalp_keras`"
            " optimizer made with `swa_start`. Received:"
            f" optimizer={optimizer!r}"
        )
    return found


def swap_average(model: keras.Model) -> ModelSwap:
    """A context within which a compiled model holds SWALP's average; at its end, also after an
    exception, exactly what it held.

    That goes for all its weights, so `update_bn` may be called within it. For a copy to keep, save
    the model within it: the file holds the average as the weights, and with the optimizer the
    iterate beside it, see `restore_iterate`. Training within it is refused.

    Raises
    ------
    ValueError: if the model's optimizer does not average, or nothing is averaged yet; if an
        average stands in the model already.

    >>> import keras
    >>> from qemu_swalp.training import swalp
    >>> from qemu_swalp_keras import SGD, swap_average
    >>> model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile(SGD(0.1, recipe=swalp(8), swa_start=2, swa_finalize=False), loss="mse")
    >>> x = keras.ops.ones((8, 1))
    >>> _ = model.fit(x, x, batch_size=1, verbose=0)
    >>> with swap_average(model):
    ...     _ = model.evaluate(x, x, verbose=0)
    """
    return swap_of(model)


def swap_of(
    model: keras.Model, automatic: bool = False, until: tuple[str, ...] = TRAINING
) -> ModelSwap:
    """The swap of a model's average, not entered yet."""
    synchronize(model)
    optimizers = averaging_optimizers(model)
    return ModelSwap(
        model,
        lambda: [pair for o in optimizers for pair in o.average_by_variable()],
        automatic,
        until,
    )


def restore_iterate(model: keras.Model) -> bool:
    """Give a model back the weights that it trains, if an average stands in it.

    Use it after a swap that was left open, or to train on with a model that was saved while the
    average stood in it. Such are models saved within `swap_average`, and those that
    `ModelCheckpoint` or `BackupAndRestore` saved beside `SwapAverage(on_epoch_end=True)`.
    `SwapAverage` does this by itself when `fit` begins. Weights that were written since, as by
    `load_weights`, stay.

    Returns
    -------
    whether the weights were given back.

    >>> import keras
    >>> from qemu_swalp.training import swalp
    >>> from qemu_swalp_keras import SGD, restore_iterate
    >>> model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile(SGD(0.1, recipe=swalp(8), swa_start=2), loss="mse")
    >>> restore_iterate(model)
    False
    """
    synchronize(model)
    restored = False
    while (swap := standing(model.trainable_variables)) is not None:
        swap.keep(model.non_trainable_weights)
        restored = swap.undo_unless_rewritten() or restored
    return restored


def before_training(model: keras.Model) -> None:
    """`restore_iterate`, unless a user's own swap stands.

    Raises
    ------
    ValueError: if it does.
    """
    synchronize(model)
    swap = standing(model.trainable_variables)
    if swap is not None and swap.automatic:
        restore_iterate(model)
    before_use(model.trainable_variables)


def quantized_within(optimizer: Any) -> list[QuantizedBase]:
    """Our optimizers within an optimizer, at any depth."""
    return list(_within(optimizer, set()))


def _within(x: Any, seen: set[int]) -> Iterator[QuantizedBase]:
    """Our optimizers within an optimizer, at any depth and whatever it calls them."""
    if id(x) in seen:
        return
    seen.add(id(x))
    if isinstance(x, QuantizedBase):
        yield x
    elif isinstance(x, keras.optimizers.Optimizer | keras.optimizers.OptimizerMap):
        for part in vars(x).values():
            yield from _within(part, seen)
    elif isinstance(x, Mapping):
        for part in x.values():
            yield from _within(part, seen)
    elif isinstance(x, list | tuple | set):
        for part in x:
            yield from _within(part, seen)


def _undone_after_an_exception(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def run(model: Any, *args: Any, **kwargs: Any) -> Any:
        before = standing(model.trainable_variables)  # of a file, which `fit` may have refused
        try:
            return method(model, *args, **kwargs)
        except BaseException:
            swap = standing(model.trainable_variables)
            if swap is not None and swap.automatic and swap is not before:
                swap.undo_unless_rewritten()
            raise

    return run


@cache
def install() -> None:
    """Give models their iterates back when `fit`, `evaluate` or `predict` raises, once in a
    process.
    """
    for name in ("fit", "evaluate", "predict"):
        replace_method(keras.Model, name, _undone_after_an_exception)
