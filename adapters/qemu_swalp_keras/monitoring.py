"""What rounding does in a training run, place by place, as a table and for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from qemu_swalp import RandomBits
from qemu_swalp._util.checks import check_int
from qemu_swalp.training import Quantizer
from qemu_swalp.training.figures import Label, RoundingFigures

from .averaging.model_swap import before_training, quantized_within
from .backend import backend, has_value, strategy_scope, tensor, unjitted
from .watching import OBSERVERS


class Monitor(RoundingFigures, keras.callbacks.Callback):
    """Watches the roundings of some training steps at the beginning of epochs; figures are those of
    the last time.

    The steps run eagerly, on data of their own, and the model and its optimizer are then as they
    were: the training itself stays compiled and has the same bits. Of every place and role: the
    share of elements that saturate, that underflow to 0 and that are infinite or NaN, and the
    signal to quantization noise ratio in dB. Of weights (or their accumulators): the share of
    updates that are lost, since the weight rounds back to what it was. Of parameters: the
    gradient-to-noise ratio ‖ḡ‖²/tr Σ, ḡ mean and Σ covariance of the gradients of the steps seen.
    It is the inverse of the gradient noise scale of McCandlish et al. 2018 (arXiv 1812.06162) at
    that batch size. It sees the optimizer's tensors, activations, errors and operands of products;
    not the average, elementwise operations, nor the partial sums of products.

    Parameters
    ----------
    x, y : inputs and targets, as arrays or structures of arrays. Two batches or more, for updates
        that are lost and the gradients' noise.
    batch_size : elements of each step.
    every : epochs from one time to the next, the first included; None: only when `watch` is called.
    log_dir : where TensorBoard reads the figures, by the optimizer's iterations; None: nowhere.

    Raises
    ------
    TypeError, ValueError: if an argument is of another type or out of range.
    ImportError: if `log_dir` is given and tensorboard is not installed.

    >>> import keras, numpy as np
    >>> from qemu_swalp.training import Recipe
    >>> from qemu_swalp_keras import QuantizedOptimizer
    >>> model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    >>> recipe = Recipe(weight="fixed<8,4>/nearest_even")
    >>> model.compile(QuantizedOptimizer(keras.optimizers.SGD(1e-6), recipe), "mse")
    >>> x = np.ones((24, 1), "float32")
    >>> monitor = Monitor(x, 9 * x, batch_size=8)
    >>> monitor.watch(model)
    >>> (row,) = monitor.rows()
    >>> row["role"], row["saturated"], row["lost_updates"], row["gradient_to_noise"]
    ('weight', 0.0, 1.0, inf)
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        *,
        batch_size: int = 32,
        every: int | None = 1,
        log_dir: str | Path | None = None,
    ) -> None:
        keras.callbacks.Callback.__init__(self)
        check_int("batch_size", batch_size, 1, 2**31 - 1)
        if every is not None:
            check_int("every", every, 1, 2**31 - 1)
        sizes = {len(part) for part in tree.flatten((x, y))}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(
                "x and y must hold the same number of elements, one or more, got"
                f" {', '.join(map(str, sorted(sizes)))}"
            )
        (self._size,) = sizes
        self._data, self.batch_size, self.every = (x, y), batch_size, every
        self._writer = None if log_dir is None else _writer(log_dir)
        RoundingFigures.__init__(self)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Watch, if it is time."""
        if self.every is not None and epoch % self.every == 0:
            self.watch(self.model)
            if self._writer is not None:
                step = int(ops.convert_to_numpy(self.model.optimizer.iterations))
                self.write(self._writer, step)
                self._writer.flush()

    def watch(self, model: keras.Model) -> None:
        """Make the figures anew: some steps of a compiled model, which is then as it was.

        Raises
        ------
        ValueError: if the model is not compiled or not built; if it has several replicas under
            `tf.distribute`; if an average stands in its weights; if something is rounded
            within a function of its own that is traced.
        """
        if getattr(model, "optimizer", None) is None or not model.built:
            raise ValueError(
                f"the model {model.name!r} must be compiled with an optimizer, and built; call"
                " compile, and the model on a batch"
            )
        strategy = getattr(model, "distribute_strategy", None)
        if strategy is not None and strategy.num_replicas_in_sync > 1:
            raise ValueError(
                f"the model {model.name!r} has {strategy.num_replicas_in_sync} replicas, and"
                " figures of updates would count each as a step of its own; watch a copy that has"
                " none, as Monitor(x, y).watch(keras.models.load_model(path)) beyond the scope of"
                " the strategy"
            )
        before_training(model)
        self.reset()
        with unchanged(model), _eager_training(model), unjitted():
            if backend() == "jax":  # before its first step Keras traces the model
                with unchanged(model):
                    self._train_on(model, 0)
            with self._watching(model):
                for start in range(0, self._size, self.batch_size):
                    self._train_on(model, start)

    def _train_on(self, model: keras.Model, start: int) -> None:
        x, y = (_rows(part, start, start + self.batch_size) for part in self._data)
        model.train_on_batch(x, y)

    @contextmanager
    def _watching(self, model: keras.Model) -> Iterator[None]:
        optimizers = quantized_within(model.optimizer)
        with ExitStack() as stack:
            for optimizer in optimizers:
                stack.enter_context(optimizer.watched())
            for optimizer in optimizers or [model.optimizer]:
                variables = optimizer.built_with if optimizers else model.trainable_variables
                stack.enter_context(_noted(optimizer, variables, self._note_gradients))
            OBSERVERS.append(self._observe)
            try:
                yield
            finally:
                OBSERVERS.remove(self._observe)

    def _observe(
        self,
        label: Label,
        x: Any,
        quantizer: Quantizer,
        random: RandomBits | None,
        scales: Any = None,
    ) -> None:
        if not has_value(x):
            raise ValueError(
                f"{label[0]!r} rounds ({label[1]}) within a function that is compiled by itself,"
                " where no value can be watched; leave out that tf.function, jit or torch.compile"
                " while the model is watched"
            )
        bits = None if random is None else random.at(int(random.step))
        given = None if scales is None else _array(scales)
        self.see(label, _array(x), quantizer, bits, given)

    def _note_gradients(self, gradients: Sequence[Any], variables: Sequence[Any]) -> None:
        for gradient, variable in zip(gradients, variables, strict=True):
            if gradient is not None:
                value = _array(tensor(gradient)).astype(np.float64)
                self.gradients[variable.path].add(value)


@contextmanager
def unchanged(model: keras.Model) -> Iterator[None]:
    """At its end a compiled model and its optimizer hold what they held."""
    with strategy_scope(model):
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    before = [np.array(ops.convert_to_numpy(v)) for v in variables]
    try:
        with ExitStack() as stack:
            for optimizer in quantized_within(model.optimizer):
                stack.enter_context(optimizer.phase.held())
            yield
    finally:
        model.reset_metrics()  # those of which the variables are made by the first step
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)


@contextmanager
def _eager_training(model: keras.Model) -> Iterator[None]:
    eager, function = model.run_eagerly, model.train_function
    model.run_eagerly, model.train_function = True, None
    try:
        yield
    finally:
        model.run_eagerly, model.train_function = eager, function


@contextmanager
def _noted(
    optimizer: Any, known: Sequence[Any], note: Callable[[Sequence[Any], Sequence[Any]], None]
) -> Iterator[None]:
    """Within it note(gradients, variables) is called before each step of an optimizer."""
    apply = optimizer.apply

    def noting(gradients: Sequence[Any], trainable_variables: Any = None) -> None:
        gradients = list(gradients)
        note(gradients, known if trainable_variables is None else list(trainable_variables))
        apply(gradients, trainable_variables)

    optimizer.apply = noting
    try:
        yield
    finally:
        del optimizer.apply


def _rows(x: Any, start: int, stop: int) -> Any:
    return tree.map_structure(lambda part: part[start:stop], x)


def _array(x: Any) -> np.ndarray:
    """On the host; of 16 bits in float32, which holds the same values."""
    value = x if isinstance(x, np.ndarray) else ops.convert_to_numpy(x)
    return value if value.dtype in (np.float32, np.float64) else value.astype(np.float32)


def _writer(log_dir: str | Path) -> Any:
    try:
        from tensorboard.summary import Writer
    except ImportError as error:
        raise ImportError(
            f"log_dir needs tensorboard, which cannot be imported ({error}); pip install"
            " tensorboard, or leave out log_dir and call write with a writer of your own"
        ) from error
    return Writer(str(log_dir))
