"""Gradients and traces on the backend that Keras runs on, NumPy in and NumPy out."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

BACKEND = keras.backend.backend()
MODES = {"tensorflow": ("eager", "graph", "xla"), "jax": ("eager", "xla"), "torch": ("eager",)}[
    BACKEND
]
"""Ways in which a function of tensors runs."""


class Calls(keras.layers.Layer):
    """A function of one tensor, whose dtype it leaves as it is."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__(dtype="float32", autocast=False)
        self.function = function

    def call(self, x: Any) -> Any:
        return self.function(x)


def numpy(x: Any) -> Any:
    return ops.convert_to_numpy(x)


def traced(function: Callable[..., Any], mode: str) -> Callable[..., Any]:
    """The function of tensors, run in a mode."""
    if mode == "eager":
        return function
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function, jit_compile=mode == "xla", autograph=False)


def pull_back(function: Callable[[Any], Any], x: Any, upstream: Any) -> tuple[Any, Any]:
    """(function(x), gradient of ⟨function(x), upstream⟩ with respect to x)."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return y, tape.gradient(y, x, upstream)
    if BACKEND == "jax":
        import jax

        y, pull = jax.vjp(function, x)
        return y, pull(upstream)[0]
    import torch

    x = x.detach().requires_grad_()
    y = function(x)
    return y, torch.autograd.grad(y, x, upstream)[0]


def same(a: Any, b: Any) -> None:
    """Assert equal dtypes, shapes and bits."""
    a, b = numpy(a), numpy(b)
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert a.tobytes() == b.tobytes(), f"{a} != {b}"


def normal(shape: tuple[int, ...], seed: int = 0, dtype: str = "float32") -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)
