"""Keras's normalizations by the formulas of `normalize`, in place of those that Keras composes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from ..backend import dtype_of
from .normalize import affine, standardize, standardize_by
from .operations import Operations

Function = Callable[..., Any]


def layer_normalization(
    o: Operations,
    function: Function,
    x: Any,
    gamma: Any = None,
    beta: Any = None,
    axis: int | Sequence[int] = -1,
    epsilon: float | None = None,
    rms_scaling: bool = False,
) -> Any:
    """Scaling by the variance around the mean without subtracting that, which Keras deprecates, is
    composed.
    """
    eps = keras.config.epsilon() if epsilon is None else epsilon
    if not rms_scaling:
        return _over(o, x, axis, gamma, beta, eps, centered=True)
    wide = _wide(x)
    variance = o.moments(wide, axis, keepdims=True)[1]
    y = o.multiply(wide, o.reciprocal_root(o.add(variance, eps)))
    y = y if gamma is None else o.multiply(y, ops.cast(gamma, dtype_of(y)))
    return ops.cast(y, dtype_of(x))


def rms_normalization(
    o: Operations,
    function: Function,
    x: Any,
    scale: Any = None,
    axis: int | Sequence[int] = -1,
    epsilon: float | None = None,
) -> Any:
    """Of `keras.ops`."""
    eps = keras.config.epsilon() if epsilon is None else epsilon
    return _over(o, x, axis, scale, None, eps, centered=False)


def _over(
    o: Operations, x: Any, axis: Any, weight: Any, bias: Any, eps: float, centered: bool
) -> Any:
    """Normalization over axes, computed in float32 at least, as Keras does."""
    rank, rules = len(x.shape), o.next()
    axes = sorted(d % rank for d in ([axis] if isinstance(axis, int) else axis))
    order = [*(d for d in range(rank) if d not in axes), *axes]
    moved = ops.transpose(_wide(x), order)
    count = math.prod(x.shape[d] for d in axes)
    rows = ops.reshape(moved, (-1, count))
    z = standardize(rows, eps, centered, rules, o.state)[0]
    fitting = [p is None or math.prod(p.shape) == count for p in (weight, bias)]
    if all(fitting):
        z = affine(z[..., None], weight, bias, rules, o.state)
    y = ops.transpose(ops.reshape(z, ops.shape(moved)), _inverse(order))
    if not all(fitting):  # parameters of other shapes, which broadcast
        y = y if weight is None else o.multiply(y, ops.cast(weight, dtype_of(y)))
        y = y if bias is None else o.add(y, ops.cast(bias, dtype_of(y)))
    return ops.cast(y, dtype_of(x))


def normalize(
    o: Operations,
    function: Function,
    x: Any,
    axis: int | Sequence[int] = -1,
    order: int = 2,
    epsilon: float | None = None,
) -> Any:
    """x/max(‖x‖, ε)."""
    eps = keras.config.epsilon() if epsilon is None else epsilon
    x = ops.reshape(x, (1,)) if len(x.shape) == 0 else x
    return o.divide(x, o.clip(o.norm(x, order, axis, True), eps, None))


def group_normalization(
    o: Operations, function: Function, layer: Any, grouped: Any, input_shape: Any
) -> Any:
    """Of `GroupNormalization`, which has an axis of groups before that of their channels.

    Elements of a row lie as (channels, pixels), as in PyTorch.
    """
    rank, rules = len(grouped.shape), o.next()
    axis = layer.axis % len(input_shape)
    order = [0, axis, axis + 1, *(d for d in range(1, rank) if d not in (axis, axis + 1))]
    moved = ops.transpose(_wide(grouped), order)
    batch, groups, channels, *_ = ops.shape(moved)
    rows = ops.reshape(moved, (batch, groups, -1))
    z = standardize(rows, layer.epsilon, True, rules, o.state)[0]
    z = ops.reshape(z, (batch, groups * channels, -1))
    y = affine(z, *_parameters(layer), rules, o.state)
    y = ops.transpose(ops.reshape(y, ops.shape(moved)), _inverse(order))
    return ops.cast(y, dtype_of(grouped))


def batch_normalization(
    o: Operations,
    function: Function,
    layer: Any,
    inputs: Any,
    training: bool | None = None,
    mask: Any = None,
) -> Any:
    """Of `BatchNormalization`. Moving statistics are in full precision; they take in the rounded
    ones of the batch. Masked and renormalized ones are None here: Keras composes them.
    """
    x, rules = _wide(inputs), o.next()
    rank, axis = len(x.shape), layer.axis % len(x.shape)
    order = [axis, *(d for d in range(rank) if d != axis)]
    moved = ops.transpose(x, order)
    rows = ops.reshape(moved, (moved.shape[0], -1))
    if training and layer.trainable:
        z, mean, variance = standardize(rows, layer.epsilon, True, rules, o.state)
        for moving, found in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
            old, new = ops.cast(moving, dtype_of(x)), ops.squeeze(found, -1)
            moving.assign(old * layer.momentum + new * (1.0 - layer.momentum))
    else:
        mean, variance = (
            ops.expand_dims(v, -1) for v in (layer.moving_mean, layer.moving_variance)
        )
        z = standardize_by(rows, mean, variance, layer.epsilon, rules, o.state)
    y = affine(z[None], *_parameters(layer), rules, o.state)[0]
    y = ops.transpose(ops.reshape(y, ops.shape(moved)), _inverse(order))
    return ops.cast(y, layer.compute_dtype)


def is_composed(layer: Any, mask: Any) -> bool:
    """Whether batch normalization is of a kind that is rounded as Keras composes it."""
    return mask is not None or layer.renorm or layer.synchronized


def _wide(x: Any) -> Any:
    return ops.cast(x, keras.backend.result_type(dtype_of(x), "float32"))


def _parameters(layer: Any) -> tuple[Any, Any]:
    """Scale and offset, each None where there is none."""
    gamma = ops.convert_to_tensor(layer.gamma) if layer.scale else None
    return gamma, ops.convert_to_tensor(layer.beta) if layer.center else None


def _inverse(order: Sequence[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)
