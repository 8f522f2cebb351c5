"""Cost of a training step on Keras under the built-in presets: `python -m
tests.benchmarks.keras_recipes [--backends tensorflow jax torch]`.

A step is `train_on_batch` of a model under `emulate`, the optimizer's update included. Figures are
processor time of all threads, which what else the machine does bears on least, as multiples of the
float32 step, which is given in milliseconds: the least of several rounds, in each of which every
recipe makes one step.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.benchmarks.keras_step import MODES, each_backend, heading, minima

RECIPES = ("swalp8", "mxfp8", "nvfp4", "mxfp4", "fp8_ibm")
BATCH = 64


def mlp() -> Any:
    """784-512-512-10: 0.67 million parameters."""
    from keras import Sequential, layers

    hidden = [layers.Dense(512, "relu"), layers.Dense(512, "relu")]
    return Sequential([layers.Input((784,)), *hidden, layers.Dense(10)])


def convolutions() -> Any:
    """Three convolutions on images of 14×14."""
    from keras import Sequential, layers

    hidden = [layers.Conv2D(32, 3, strides, activation="relu") for strides in (1, 2, 1)]
    end = [layers.GlobalAveragePooling2D(), layers.Dense(10)]
    return Sequential([layers.Input((14, 14, 1)), *hidden, *end])


MODELS: dict[str, Callable[[], Any]] = {"MLP": mlp, "convolutions": convolutions}


def stepper(model_of: Callable[[], Any], recipe: str | None, mode: str) -> Callable[[], Any]:
    """A function that makes one training step, under a recipe or without any."""
    import keras
    from qemu_swalp_keras import emulate

    model, optimizer = model_of(), keras.optimizers.SGD(1e-3, momentum=0.9)
    if recipe is not None:
        model, optimizer = emulate(model, optimizer, recipe, uncovered="warn", seed=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    eager = mode == "eager"
    model.compile(optimizer, loss, jit_compile=mode == "XLA", run_eagerly=eager)
    random = np.random.default_rng(0)
    x = random.standard_normal((BATCH, *model.input_shape[1:])).astype(np.float32)
    y = random.integers(0, 10, BATCH)
    return lambda: model.train_on_batch(x, y)


def report(models: list[str], recipes: list[str], modes: list[str], rounds: int) -> None:
    """Print the table of the backend that Keras runs on."""
    import keras

    from qemu_swalp._util.tables import table

    has = [mode for mode in MODES[keras.backend.backend()] if mode in modes]
    columns = [(model, mode) for model in models for mode in has]
    found = []
    for model, mode in columns:
        keras.utils.clear_session()
        steps = {str(r): stepper(MODELS[model], r, mode) for r in (None, *recipes)}
        found.append(minima(steps, rounds, time.process_time))
    lines = [
        [name, *(f"{column[name] / column['None']:.1f}" for column in found)] for name in recipes
    ]
    lines.insert(0, ["float32, ms", *(f"{1e3 * column['None']:.1f}" for column in found)])
    print(heading(rounds))
    print(table(("recipe", *(f"{model}, {mode}" for model, mode in columns)), lines), flush=True)


def main() -> int:
    """Each backend in a process of its own; 1 where one fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    return each_backend(
        parser, __spec__.name, lambda c: report(c.models, c.recipes, c.modes, c.rounds)
    )


if __name__ == "__main__":
    sys.exit(main())
