"""How long a first training step on Keras takes: `python -m tests.benchmarks.keras_first_steps
[--modes graph XLA jax] [--json FILE]`.

What is measured is `emulate`, `compile` and the first `train_on_batch`, which traces and compiles
the step; each in a process of its own, that has trained a model of one layer before. Figures are
processor time of all threads, which what else the machine does bears on least, as multiples of that
of plain Keras. Each result is shown and written as soon as it is there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

MODES = {
    "graph": ("TensorFlow, graph", "tensorflow"),
    "XLA": ("TensorFlow, XLA", "tensorflow"),
    "jax": ("JAX", "jax"),
}
"""(column of the table, backend)."""
PLAIN = "plain"
OPTIMIZER = "8-bit optimizer"
RECIPES = (PLAIN, OPTIMIZER, "swalp8", "mxfp8")
BATCH = 16


def dense() -> Any:
    """48 layers."""
    from keras import Sequential, layers

    hidden = [layers.Dense(32, "relu") for _ in range(47)]
    return Sequential([layers.Input((32,)), *hidden, layers.Dense(10)])


def transformer() -> Any:
    """Four blocks of width 32."""
    from keras import Model, layers

    given = x = layers.Input((16, 32))
    for _ in range(4):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(2, 16)(y, y)])
        y = layers.Dense(128, "gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(32)(y)])
    return Model(given, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))


def mobilenet() -> Any:
    """On images of 32×32."""
    from keras.applications import MobileNetV2

    return MobileNetV2((32, 32, 3), 0.35, weights=None, classes=10, classifier_activation=None)


MODELS: dict[str, Callable[[], Any]] = {
    "48 dense layers": dense,
    "transformer, 4 blocks": transformer,
    "MobileNetV2": mobilenet,
}


def seconds(make: Callable[[], Any], recipe: str, mode: str, rounds: int) -> tuple[float, float]:
    """Processor time of the first step, and the least of those after it."""
    import keras
    from qemu_swalp_keras import emulate

    from qemu_swalp.training import Recipe

    model, optimizer = make(), keras.optimizers.SGD(1e-3, momentum=0.9)
    random = np.random.default_rng(0)
    x = random.standard_normal((BATCH, *model.input_shape[1:])).astype(np.float32)
    y = random.integers(0, 10, BATCH)
    q = "bfp<8,axis=0>/stochastic"
    start = time.process_time()
    if recipe != PLAIN:
        chosen = Recipe(weight=q, gradient=q, momentum=q) if recipe == OPTIMIZER else recipe
        model, optimizer = emulate(model, optimizer, chosen, uncovered="warn", seed=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=mode != "graph")
    times = []
    for _ in range(1 + rounds):
        float(model.train_on_batch(x, y))
        times.append(time.process_time() - start)
        start = time.process_time()
    return times[0], min(times[1:])


def measure_here(model: str, recipe: str, mode: str, rounds: int) -> None:
    """Print the two figures of one case, as JSON."""
    from keras import Sequential, layers

    seconds(lambda: Sequential([layers.Input((4,)), layers.Dense(10)]), PLAIN, mode, 1)
    print(json.dumps(seconds(MODELS[model], recipe, mode, rounds)))


def measured(case: tuple[str, str, str], rounds: int) -> tuple[float, float]:
    """The two figures of one case, measured in a process of its own."""
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3"} | os.environ | {"KERAS_BACKEND": MODES[case[2]][1]}
    command = [sys.executable, "-m", __spec__.name, "--here", *case, "--rounds", str(rounds)]
    found = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    first, later = json.loads(found.stdout.splitlines()[-1])
    return first, later


def report(chosen: argparse.Namespace) -> None:
    """Measure all cases that were chosen."""
    for model in chosen.models:
        for mode in chosen.modes:
            plain: tuple[float, float] | None = None
            for recipe in RECIPES:
                first, later = measured((model, recipe, mode), chosen.rounds)
                plain = plain or (first, later)
                ratio = f"{first / plain[0]:.1f}"
                print(
                    f"{model}, {mode}, {recipe}: {first:.1f} s, {ratio} × plain;"
                    f" later steps {1e3 * later:.1f} ms, {later / plain[1]:.1f} × plain",
                    flush=True,
                )
                if chosen.json:
                    figure = f"{first:.1f} s" if recipe == PLAIN else ratio
                    write(chosen.json, f"{model}, {recipe}", MODES[mode][0], figure)


def write(file: Path, row: str, column: str, figure: str) -> None:
    """Put a figure into a file of the form of `spec/docs/data`, beside others."""
    columns = ["first step", *(name for name, _ in MODES.values())]
    held = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"rows": []}
    rows = {name: figures for name, *figures in held["rows"]}
    rows.setdefault(row, ["–"] * len(MODES))[columns.index(column) - 1] = figure
    held["command"] = "python -m tests.benchmarks.keras_first_steps --json FILE"
    held.setdefault("machine", "processor time of all threads")
    held |= {"columns": columns, "rows": [[name, *figures] for name, figures in rows.items()]}
    file.write_text(json.dumps(held, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """All cases, or those that are named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--rounds", type=int, default=9, help="later steps that are measured")
    parser.add_argument("--json", type=Path, help="where to write results, as they come")
    parser.add_argument("--here", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.here:
        measure_here(*chosen.here, chosen.rounds)
    else:
        report(chosen)


if __name__ == "__main__":
    main()
