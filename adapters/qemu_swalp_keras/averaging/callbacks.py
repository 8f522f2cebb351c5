"""The average in the model while it is evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import keras

from qemu_swalp._util.checks import check_bool

from ..backend import synchronize
from ..optim.base import QuantizedBase
from .update_bn import update_bn


def averaging_optimizers(model: keras.Model) -> list[QuantizedBase]:
    """The optimizers of a compiled model that average, those within wrappers included.

    Raises
    ------
    ValueError: if there is none.
    """
    optimizers = [o for o in _within(getattr(model, "optimizer", None)) if o.averages]
    if not optimizers:
        raise ValueError(
            "The model's optimizer does not average. Compile it with a `qemu_swalp_keras`"
            " optimizer made with `swa_start`. Received:"
            f" optimizer={getattr(model, 'optimizer', None)!r}"
        )
    return optimizers


@contextmanager
def swap_average(model: keras.Model) -> Iterator[keras.Model]:
    """Within it a compiled model holds SWALP's average; at its end, also after an exception,
    exactly what it held.

    That goes for all its weights, so `update_bn` may be called within it. For a copy to keep, save
    the model within it.

    Raises
    ------
    ValueError: if the model's optimizer does not average, or nothing is averaged yet.

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
    synchronize(model)
    before = [(v, keras.ops.convert_to_numpy(v)) for v in model.non_trainable_weights]
    with ExitStack() as stack:
        for optimizer in averaging_optimizers(model):
            stack.enter_context(optimizer.swap())
        try:
            yield model
        finally:
            for variable, value in before:
                variable.assign(value)


class SwapAverage(keras.callbacks.Callback):
    """Evaluation and prediction, validation within `fit` included, use SWALP's average; training
    uses the iterate.

    Before the first average they use the iterate. List it before `ModelCheckpoint` and the like.

    Parameters
    ----------
    on_epoch_end : whether the average also stays in the model from the end of an epoch to the
        beginning of the next, so that callbacks listed later, such as `ModelCheckpoint`, save it.
    batchnorm_data : data by which `update_bn` sets the statistics of batch normalization for the
        average, each time that it is swapped in: those of the iterates do not fit it. None: for
        models without batch normalization.

    >>> import keras
    >>> from qemu_swalp.training import swalp
    >>> from qemu_swalp_keras import SGD, SwapAverage
    >>> model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile(SGD(0.1, recipe=swalp(8), swa_start=2), loss="mse")
    >>> x = keras.ops.ones((8, 1))
    >>> _ = model.fit(x, x, validation_data=(x, x), callbacks=[SwapAverage()], epochs=2, verbose=0)
    """

    def __init__(self, on_epoch_end: bool = False, batchnorm_data: Any = None) -> None:
        super().__init__()
        check_bool("on_epoch_end", on_epoch_end)
        self.swap_on_epoch_end, self.batchnorm_data = on_epoch_end, batchnorm_data
        self._swapped: ExitStack | None = None

    def _swap(self) -> None:
        self._restore()
        if all(optimizer.n_averaged for optimizer in averaging_optimizers(self.model)):
            with ExitStack() as stack:
                stack.enter_context(swap_average(self.model))
                if self.batchnorm_data is not None:
                    update_bn(self.batchnorm_data, self.model)
                self._swapped = stack.pop_all()

    def _restore(self) -> None:
        if self._swapped is not None:
            synchronize(self.model)
            self._swapped.close()
            self._swapped = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Check that the optimizer averages.

        Raises
        ------
        ValueError: if it does not.
        """
        averaging_optimizers(self.model)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Back to the iterate."""
        self._restore()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """To the average, with `on_epoch_end`, for the callbacks that follow."""
        if self.swap_on_epoch_end:
            self._swap()

    def on_train_end(self, logs: Any = None) -> None:
        """Back to the iterate; with `swa_finalize`, whose time was before, to the average."""
        if self._swapped is not None:
            self._restore()
            for optimizer in averaging_optimizers(self.model):
                optimizer.finalize_average()

    def on_test_begin(self, logs: Any = None) -> None:
        """To the average."""
        self._swap()

    def on_test_end(self, logs: Any = None) -> None:
        """Back to the iterate."""
        self._restore()

    on_predict_begin, on_predict_end = on_test_begin, on_test_end


def _within(optimizer: Any) -> Iterator[QuantizedBase]:
    if isinstance(optimizer, QuantizedBase):
        yield optimizer
    elif hasattr(optimizer, "inner_optimizer"):
        yield from _within(optimizer.inner_optimizer)
    else:
        for part in getattr(optimizer, "optimizers", ()):
            yield from _within(part)
