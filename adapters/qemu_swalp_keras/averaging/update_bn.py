"""Batch-normalization statistics of a model whose weights were averaged."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from qemu_swalp._util.checks import check_int
from qemu_swalp.training.moments import PooledMoments

from .._compat import flat_layers
from ..backend import backend, synchronize


def update_bn(data: Any, model: Any, *, batch_size: int = 32, steps: int | None = None) -> None:
    """Set moving mean and variance of every batch normalization to those of all data.

    Mean and variance are pooled over the elements of all batches, whatever their sizes, masked ones
    left out. The variance is that of the elements, divided by their number, as Keras's own update
    has it. The model runs in training mode, so each layer sees what batch statistics make of the
    ones before. Nothing else changes: other variables, such as weights and seeds, have their values
    back at the end. Frozen layers (`trainable=False`), which Keras runs on their moving statistics,
    keep them; those of renormalization that training uses stay too. Without batch normalization
    nothing is run.

    Parameters
    ----------
    data : an array; a tuple (x, y) or (x, y, sample_weight); a dict of arrays; or an iterable of
        batches. A batch has a form that `fit` accepts: x, (x, y) or (x, y, sample_weight), with x
        as the model's input. `keras.utils.PyDataset`, `tf.data.Dataset`, PyTorch's DataLoader and
        generators are such iterables.
    model : any model that is built.
    batch_size : elements of arrays to work on at a time.
    steps : how many batches to use; None: all.

    Raises
    ------
    TypeError: if `model` is not a Keras model, or `data` has another form.
    ValueError: if `data` has no batch, or the model is not built. After any exception the model is
        as it was.

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.layers.Input((1,)), keras.layers.BatchNormalization()])
    >>> update_bn([np.float32([[0], [2], [4]]), np.float32([[6], [8]])], model)
    >>> layer = model.layers[0]
    >>> [keras.ops.convert_to_numpy(v).item() for v in (layer.moving_mean, layer.moving_variance)]
    [4.0, 8.0]
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"model must be a keras.Model, got {type(model).__module__}.{type(model).__qualname__}"
        )
    check_int("batch_size", batch_size, 1, 2**31 - 1)
    if steps is not None:
        check_int("steps", steps, 1, 2**63 - 1)
    if not model.built:
        raise ValueError(f"the model {model.name!r} is not built; call it on a batch first")
    batches = islice(_batches(data, batch_size), steps)
    layers = [layer for layer in flat_layers(model) if _tracks(layer)]
    if not layers:
        return
    synchronize(model)
    before = [(variable, np.array(ops.convert_to_numpy(variable))) for variable in model.variables]
    pools = [_Pool(layer) for layer in layers]
    try:
        for layer, pool in zip(layers, pools, strict=True):
            layer.__dict__["call"] = pool
        count = 0
        with _no_gradient():
            for batch in batches:
                count += 1
                model(
                    tree.map_structure(_tensor, keras.utils.unpack_x_y_sample_weight(batch)[0]),
                    training=True,
                )
        if not count:
            raise ValueError("data must give at least one batch, got none")
    finally:
        for layer in layers:
            layer.__dict__.pop("call", None)
        for variable, value in before:
            variable.assign(value)
    for pool in pools:
        pool.write()


class _Pool:
    """Replaces a layer's `call`: pools the moments of its inputs by channel, in float64."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.moments = PooledMoments()

    def __call__(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if training:
            self._add(
                *(
                    ops.convert_to_numpy(part).astype(np.float64)
                    for part in self._moments_of(inputs, mask)
                )
            )
        return type(self.layer).call(self.layer, inputs, training=training, mask=mask)

    def _moments_of(self, x: Any, mask: Any) -> tuple[Any, ...]:
        """Count, mean, sum of the deviations from it and sum of their squares, of a batch."""
        x = ops.cast(x, keras.backend.result_type(x.dtype, "float32"))
        axes = [a for a in range(x.ndim) if a != self.layer.axis % x.ndim]
        weight = (
            ops.ones_like(x)
            if mask is None
            else ops.broadcast_to(ops.cast(ops.expand_dims(mask, -1), x.dtype), ops.shape(x))
        )
        count = ops.sum(weight, axes, keepdims=True)
        mean = ops.sum(ops.where(weight > 0, x, 0), axes, keepdims=True) / ops.maximum(count, 1)
        deviations = ops.where(weight > 0, x - mean, 0)
        return (
            ops.squeeze(count, axes),
            ops.squeeze(mean, axes),
            ops.sum(deviations, axes),
            ops.sum(ops.square(deviations), axes),
        )

    def _add(self, count: Any, mean: Any, deviations: Any, squares: Any) -> None:
        # The deviations sum to zero but for float32's rounding of the mean: they correct it, and
        # with it the squares (Chan, Golub, LeVeque 1983, the corrected two-pass algorithm).
        correction = deviations / np.maximum(count, 1)
        self.moments.add(count, mean + correction, squares - deviations * correction)

    def write(self) -> None:
        """Write into the layer's variables, but for channels that no element has reached."""
        layer, moments = self.layer, self.moments
        reached, variance = np.asarray(moments.count) > 0, moments.variance()
        _assign(layer.moving_mean, moments.mean, reached)
        _assign(layer.moving_variance, variance, reached)
        if layer.renorm:
            _assign(layer.moving_stddev, np.sqrt(variance + layer.epsilon), reached)


def _assign(variable: Any, value: Any, where: Any) -> None:
    old = ops.convert_to_numpy(variable)
    variable.assign(np.where(where, value, old).astype(old.dtype))


def _tracks(layer: Any) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization) and layer.built and layer.trainable


def batch_statistics(model: Any) -> list[np.ndarray]:
    """The moving means and variances that `update_bn` would set."""
    return [
        np.array(ops.convert_to_numpy(variable))
        for layer in flat_layers(model)
        if _tracks(layer)
        for variable in (layer.moving_mean, layer.moving_variance)
    ]


def warn_of_statistics(model: Any, remedy: str) -> None:
    """Warn that the statistics of a model's batch normalization are not those of the average."""
    if any(_tracks(layer) for layer in flat_layers(model)):
        warnings.warn(
            f"The average is in {model.name!r}, whose batch normalization keeps the statistics of"
            f" the iterates, which do not fit it. Have them measured: {remedy}",
            stacklevel=4,
        )


def _batches(data: Any, batch_size: int) -> Iterator[Any]:
    if isinstance(data, tuple | dict) or hasattr(data, "shape"):
        return _slices(keras.utils.unpack_x_y_sample_weight(data)[0], batch_size)
    if isinstance(data, Iterable):
        return iter(data)
    raise TypeError(
        "data must be an array, a tuple (x, y) or a dict of arrays, or an iterable of batches, got "
        f"{type(data).__module__}.{type(data).__qualname__}"
    )


def _slices(x: Any, batch_size: int) -> Iterator[Any]:
    size = len(tree.flatten(x)[0])
    for start in range(0, size, batch_size):
        yield (tree.map_structure(lambda part: part[start : start + batch_size], x),)  # noqa: B023  (used at once)


def _tensor(x: Any) -> Any:
    """Of the running backend: tf.data gives TensorFlow's, a DataLoader PyTorch's."""
    return x if ops.is_tensor(x) else ops.convert_to_tensor(np.asarray(x))


def _no_gradient() -> AbstractContextManager[Any]:
    if backend() != "torch":
        return nullcontext()
    import torch

    return torch.no_grad()
