"""Cost of a training step on Keras under built-in presets: `python -m
tests.benchmarks.keras_recipes [--backends tensorflow jax torch] [--json FILE]`.

A step is `train_on_batch` of a small convolutional network under `emulate`, the optimizer's update
included, compiled once for each preset and backend as Keras compiles by default. Figures are
processor time of all threads, which what else the machine does bears on least, as multiples of the
float32 step: ratios of least times of several rounds, in each of which both make one step. Each
result is shown and written as soon as it is there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.keras_step import each_backend, heading, minima

RECIPES = ("swalp8", "bf16_sr", "fp8_hybrid", "mxfp8", "nvfp4", "mxfp4", "quartet", "fp8_ibm")
FLOAT = "float32 step, ms"
BATCH = 64


def network() -> Any:
    """Two convolutions and two dense layers on images of 14×14: 58,000 parameters."""
    from keras import Sequential, layers

    return Sequential(
        [
            layers.Input((14, 14, 1)),
            layers.Conv2D(16, 3, 2, activation="relu"),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, "relu"),
            layers.Dense(10),
        ]
    )


def stepper(recipe: str | None) -> Callable[[], Any]:
    """A function that makes one training step, under a recipe or without any."""
    import keras
    from qemu_swalp_keras import emulate

    model, optimizer = network(), keras.optimizers.SGD(1e-3, momentum=0.9)
    if recipe is not None:
        model, optimizer = emulate(model, optimizer, recipe, uncovered="warn", seed=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    random = np.random.default_rng(0)
    x = random.standard_normal((BATCH, *model.input_shape[1:])).astype(np.float32)
    y = random.integers(0, 10, BATCH)
    return lambda: model.train_on_batch(x, y)


def report(chosen: argparse.Namespace) -> None:
    """Measure on the backend that Keras runs on."""
    import keras

    backend = keras.backend.backend()
    print(heading(chosen.rounds), flush=True)
    plain = stepper(None)
    for recipe in chosen.recipes:
        steps = {FLOAT: plain, recipe: stepper(recipe)}
        start = time.process_time()
        steps[recipe]()
        first = time.process_time() - start
        found = minima(steps, chosen.rounds, time.process_time)
        milliseconds = f"{1e3 * found[FLOAT]:.1f}"
        ratio = f"{found[recipe] / found[FLOAT]:.1f}"
        print(
            f"{recipe:12} {ratio:>6} x {milliseconds} ms; its first step {first:.0f} s", flush=True
        )
        if chosen.json:
            write(chosen.json, backend, {FLOAT: milliseconds, f"`{recipe}`": ratio})


def write(file: Path, backend: str, figures: dict[str, str]) -> None:
    """Put figures of a backend into a file of the form of `spec/docs/data`, beside those of others.
    The float32 step keeps its least.
    """
    held = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    columns = held.get("columns", ["recipe"])
    rows = {name: dict(zip(columns[1:], row, strict=True)) for name, *row in held.get("rows", [])}
    columns += [backend] * (backend not in columns)
    for name, figure in figures.items():
        row = rows.setdefault(name, {})
        if name == FLOAT and row.get(backend, "") not in ("", "–"):
            figure = min(figure, row[backend], key=float)
        row[backend] = figure
    held["columns"] = columns
    held["rows"] = [[name, *(row.get(c, "–") for c in columns[1:])] for name, row in rows.items()]
    held["command"] = "python -m tests.benchmarks.keras_recipes --json FILE"
    held.setdefault("machine", "processor time of all threads, paired with the float32 step")
    file.write_text(json.dumps(held, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> int:
    """Each backend in a process of its own; 1 where one fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--json", type=Path, help="where to write results, as they come")
    return each_backend(parser, __spec__.name, report)


if __name__ == "__main__":
    sys.exit(main())
