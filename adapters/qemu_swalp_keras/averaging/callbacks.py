"""The average in the model while it is evaluated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from qemu_swalp._util.checks import check_bool

from .._compat import before_epoch_end, callbacks_beside
from ..optim.swap import standing
from .model_swap import (
    EVALUATION,
    TRAINING,
    ModelSwap,
    averaging_optimizers,
    before_training,
    restore_iterate,
    swap_of,
)
from .policy_callback import PolicyAverage
from .resuming import check_backup
from .update_bn import update_bn, warn_of_statistics


class SwapAverage(keras.callbacks.Callback):
    """Evaluation and prediction, validation within `fit` included, use the optimizer's average, or
    that of a `PolicyAverage`; training uses the iterate.

    Before the first average they use the iterate. If any of them is interrupted, the iterate is
    back at once. Its place in the list of callbacks does not matter.

    Parameters
    ----------
    on_epoch_end : whether the average stays in the model from the last batch of an epoch to the
        beginning of the next. Then `ModelCheckpoint`, `BackupAndRestore` and the like save it as
        the weights. The iterate is saved beside it, with the optimizer: `fit` with this callback,
        or `restore_iterate`, goes on from it.
    batchnorm_data : data by which `update_bn` sets the statistics of batch normalization for the
        average, each time that it is swapped in: those of the iterates do not fit it. None: for
        models without batch normalization; for others there is a warning. False: without warning.
        A `PolicyAverage(buffers=True)` averages the statistics, which then stand in the model too.
    average : a `PolicyAverage` among the same callbacks, whose average it is; None: that which the
        model's optimizer keeps.

    Raises
    ------
    TypeError: if `average` is no `PolicyAverage`.
    ValueError: during `fit`, `evaluate` or `predict`, if the optimizer does not average, or an
        average stands in the model already; if `average` is not among the callbacks of `fit`;
        beside a `BackupAndRestore` that saves within epochs.

    >>> import keras
    >>> from qemu_swalp.training import swalp
    >>> from qemu_swalp_keras import SGD, SwapAverage
    >>> model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile(SGD(0.1, recipe=swalp(8), swa_start=2), loss="mse")
    >>> x = keras.ops.ones((8, 1))
    >>> _ = model.fit(x, x, validation_data=(x, x), callbacks=[SwapAverage()], epochs=2, verbose=0)
    """

    def __init__(
        self,
        on_epoch_end: bool = False,
        batchnorm_data: Any = None,
        average: PolicyAverage | None = None,
    ) -> None:
        super().__init__()
        check_bool("on_epoch_end", on_epoch_end)
        if average is not None and not isinstance(average, PolicyAverage):
            raise TypeError(f"average must be a PolicyAverage or None, got {average!r}")
        self.swap_on_epoch_end, self.batchnorm_data = on_epoch_end, batchnorm_data
        self.average = average
        self._evaluation: ModelSwap | None = None
        self._epoch_end: ModelSwap | None = None
        self._remove_hooks: Callable[[], None] = _nothing

    def _swap(self, until: tuple[str, ...]) -> ModelSwap | None:
        """The entered swap; None before the first average."""
        average = self.average
        if average is not None and not average.n_averaged:
            return None
        if average is None and not all(o.n_averaged for o in averaging_optimizers(self.model)):
            return None
        other = standing(self.model.trainable_variables)
        if isinstance(other, ModelSwap) and set(EVALUATION) <= set(other.until):
            raise ValueError(
                "An average stands in the model already: another SwapAverage has put it there for"
                " this evaluation. Pass one SwapAverage alone"
            )
        if average is None:
            swap = swap_of(self.model, automatic=True, until=until)
        else:
            swap = average.swap_of(average.average(), automatic=True, until=until)
        swap.__enter__()
        try:
            self._set_batch_statistics()
        except BaseException:
            swap.undo()
            raise
        return swap

    def _set_batch_statistics(self) -> None:
        if self.batchnorm_data is not None and self.batchnorm_data is not False:
            update_bn(self.batchnorm_data, self.model)
        elif self.batchnorm_data is None and not (self.average and self.average.buffers):
            warn_of_statistics(self.model, "SwapAverage(batchnorm_data=training data), or False")

    def _end_evaluation(self) -> None:
        evaluation, self._evaluation = self._evaluation, None
        if evaluation is None or not evaluation.stands:
            return
        was_rewritten = evaluation.was_rewritten()
        evaluation.undo()
        if was_rewritten:
            raise ValueError(
                "Something else has written the weights while the average stood in them for an"
                " evaluation, as SwapEMAWeights does. Pass one callback alone that swaps"
            )

    def set_model(self, model: keras.Model) -> None:
        """A `PolicyAverage` may be given to `evaluate` by this callback alone.

        Raises
        ------
        ValueError: if it averages another model.
        """
        super().set_model(model)
        if self.average is None:
            return
        if self.average.step >= 0 and not self.average.is_of(model):
            raise ValueError(
                "SwapAverage(average=...) shows the average of another model than"
                f" {model.name!r}. Pass the PolicyAverage that was trained with this one"
            )
        self.average.set_model(model)

    def on_train_begin(self, logs: Any = None) -> None:
        """Check that something is averaged; back to the iterate, if an average stands.

        Raises
        ------
        ValueError: if nothing is; if it is a user's own swap that stands.
        """
        check_backup(self)
        if self.average is not None:
            beside = callbacks_beside(self)
            if beside and self.average not in beside:
                raise ValueError(
                    "SwapAverage(average=...) shows what a PolicyAverage averages, and this one is"
                    " not among the callbacks. Pass both: callbacks=[average,"
                    " SwapAverage(average=average)]"
                )
        elif self.model.built:  # on TensorFlow others are built in their first step
            averaging_optimizers(self.model)
        before_training(self.model)
        self._remove_hooks()
        self._remove_hooks = before_epoch_end(self.model, self._before_epoch_end)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Back to the iterate."""
        before_training(self.model)

    def _before_epoch_end(self) -> None:
        if self.swap_on_epoch_end and not self._average_stands():
            self._epoch_end = self._swap(TRAINING)

    def _average_stands(self) -> bool:
        return self._epoch_end is not None and self._epoch_end.stands

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """To the average, with `on_epoch_end`, if it is not there yet."""
        if self.average is None:
            averaging_optimizers(self.model)
        self._before_epoch_end()

    def on_train_end(self, logs: Any = None) -> None:
        """Back to the iterate; with `swa_finalize`, whose time was before, to the average."""
        self._remove_hooks()
        restored = restore_iterate(self.model)
        if self.average is not None:
            return
        optimizers = averaging_optimizers(self.model)
        if restored:
            for optimizer in optimizers:
                optimizer.finalize_average()
        if all(optimizer.finalizes for optimizer in optimizers):
            self._set_batch_statistics()

    def on_test_begin(self, logs: Any = None) -> None:
        """To the average."""
        if not self._average_stands():
            self._evaluation = self._swap(TRAINING + EVALUATION)

    def on_test_end(self, logs: Any = None) -> None:
        """Back to the iterate."""
        self._end_evaluation()

    on_predict_begin, on_predict_end = on_test_begin, on_test_end


def _nothing() -> None:
    """Remove no hooks."""
