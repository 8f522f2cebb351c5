"""Values and gradients of Keras models on the backend that Keras runs on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from tests.helpers.keras_native import BACKEND, numpy


def gradients(
    function: Callable[..., Any], weights: Sequence[Any], upstream: Any, *inputs: Any
) -> tuple[Any, list[Any], list[Any]]:
    """(value, gradients of inputs, gradients of weights) in NumPy."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        held = [tf.convert_to_tensor(x) for x in inputs]
        with tf.GradientTape() as tape:
            for x in held:
                tape.watch(x)
            y = function(*held)
        both = tape.gradient(y, [*held, *(w.value for w in weights)], upstream)
    elif BACKEND == "jax":
        import jax

        def stateless(inputs, values):
            with keras.StatelessScope(list(zip(weights, values, strict=True))):
                return function(*inputs)

        values = [w.value for w in weights]
        held = [ops.convert_to_tensor(x) for x in inputs]
        y, pull = jax.vjp(stateless, held, values)
        parts = pull(ops.convert_to_tensor(upstream))
        both = [*parts[0], *parts[1]]
    else:
        import torch

        held = [ops.convert_to_tensor(x).requires_grad_() for x in inputs]
        y = function(*held)
        both = torch.autograd.grad(
            y, [*held, *(w.value for w in weights)], ops.convert_to_tensor(upstream)
        )
    found = [numpy(g) for g in both]
    return numpy(y), found[: len(inputs)], found[len(inputs) :]
