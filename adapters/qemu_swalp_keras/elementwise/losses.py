"""The losses among the functions of Keras's backends, each elementwise operation rounded."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from .functions import FUNCTIONS
from .operations import Operations


def _logarithms(o: Operations, output: Any, from_logits: bool, axis: int) -> Any:
    """Of probabilities, which are normalized and kept from 0 and 1 as in Keras."""
    if from_logits:
        return FUNCTIONS["nn.log_softmax"](o, output, axis)
    shares = o.divide(output, o.sum(output, axis, True))
    return o.log(_inside(o, shares))


def _inside(o: Operations, p: Any) -> Any:
    return o.clip(p, keras.config.epsilon(), 1 - keras.config.epsilon())


def _categorical(
    o: Operations, target: Any, output: Any, from_logits: bool = False, axis: int = -1
) -> Any:
    logs = _logarithms(o, output, from_logits, axis)
    return -o.sum(o.multiply(logs, target), axis)


def _sparse_categorical(
    o: Operations, target: Any, output: Any, from_logits: bool = False, axis: int = -1
) -> Any:
    if len(target.shape) == len(output.shape) and target.shape[-1] == 1:
        target = ops.squeeze(target, -1)
    logs = _logarithms(o, output, from_logits, axis)
    index = ops.expand_dims(ops.cast(target, "int32"), axis)
    return -ops.squeeze(ops.take_along_axis(logs, index, axis), axis)


def _binary(o: Operations, target: Any, output: Any, from_logits: bool = False) -> Any:
    """-(t·log p + (1 - t)·log(1 - p)); of logits (1 - t)·x + softplus(-x)."""
    if from_logits:
        soft = o.softplus(-output, float("inf"))
        return o.add(o.multiply(1 - target, output), soft)
    p = _inside(o, output)
    yes, no = o.multiply(target, o.log(p)), o.multiply(1 - target, o.log(o.subtract(1.0, p)))
    return -o.add(yes, no)


LOSSES = {
    "nn.categorical_crossentropy": _categorical,
    "nn.sparse_categorical_crossentropy": _sparse_categorical,
    "nn.binary_crossentropy": _binary,
}
"""By the name of a function of the backend."""
