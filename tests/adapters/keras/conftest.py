"""Keras runs on one backend in a process: the environment variable KERAS_BACKEND, by default
TensorFlow.

`python -m tests` runs this folder once on each backend.
"""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pytest

import qemu_swalp

BACKEND = keras.backend.backend()


@pytest.fixture(autouse=True)
def fresh_session() -> None:
    """Names and seeds do not depend on the tests run before."""
    keras.utils.clear_session(free_memory=False)  # which collects garbage, for a second
    keras.utils.set_random_seed(1)


def data(
    samples: int = 64, inputs: int = 4, outputs: int = 3, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A regression that a small network can learn."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, inputs)).astype(np.float32)
    return x, np.tanh(x @ rng.normal(size=(inputs, outputs))).astype(np.float32)


def network(inputs: int = 4, outputs: int = 3) -> keras.Model:
    """Weights by NumPy, so that they are the same on every backend."""
    rng = np.random.default_rng(5)
    model = keras.Sequential(
        [
            keras.layers.Input((inputs,)),
            keras.layers.Dense(5, "tanh", name="hidden"),
            keras.layers.Dense(outputs, name="head"),
        ],
        name="net",
    )
    model.set_weights([rng.normal(size=w.shape).astype(w.dtype) / 2 for w in model.get_weights()])
    return model


def on_grid(x: Any, quantizer: Any) -> bool:
    """Whether a variable holds what its format can: rounding leaves every bit as it is."""
    held = keras.ops.convert_to_numpy(x)
    rounded = qemu_swalp.quantize(held, quantizer.format, "toward_zero")
    return bool(np.array_equal(held, rounded))


def bits(x: Any) -> np.ndarray:
    """The bits of a variable, tensor or array."""
    held = np.ascontiguousarray(keras.ops.convert_to_numpy(x))
    return held.view(f"i{held.dtype.itemsize}")


def same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two lists of arrays are equal bit for bit."""
    return len(a) == len(b) and all(
        np.array_equal(bits(x), bits(y)) for x, y in zip(a, b, strict=True)
    )


def apply(
    optimizer: keras.optimizers.Optimizer, gradients: Sequence[np.ndarray], variables: Sequence[Any]
) -> None:
    """One step, eagerly."""
    run: Callable[[], None] = lambda: optimizer.apply(  # noqa: E731
        [keras.ops.convert_to_tensor(g) for g in gradients], variables
    )
    if BACKEND != "torch":
        run()
        return
    import torch

    with torch.no_grad():
        run()
