"""Cost of one optimizer step on Keras: `python -m tests.benchmarks.keras_step [--backends
tensorflow jax torch]`.

A million parameters, in one matrix or in the 62 variables of a residual network; gradients are
given. "graph" and "XLA" compile the whole update, as the train step of `fit` does; on PyTorch Keras
runs eagerly. Figures are times as multiples of that of plain `keras.optimizers.SGD` with momentum,
which is given in milliseconds: the least of several rounds, in each of which every optimizer makes
one step, so that what else the machine does bears on all alike.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

MODES = {"tensorflow": ("eager", "graph", "XLA"), "jax": ("eager", "XLA"), "torch": ("eager",)}
SHAPES: dict[str, list[tuple[int, ...]]] = {
    "one matrix": [(1000, 1000)],
    "62 variables": [
        *(
            shape
            for before, after in pairwise((3, 16, 32, 64, 128))
            for block in range(5)
            for shape in ((3, 3, after if block else before, after), (after,), (after,))
        ),
        (128, 1000),
        (1000,),
    ],
}


def optimizers() -> dict[str, Callable[[], Any]]:
    """What is compared, the plain optimizer first."""
    import keras
    from qemu_swalp_keras import SGD, QuantizedOptimizer

    from qemu_swalp.training import Quantizer, Recipe, swalp

    q = Quantizer("bfp<8,axis=0>", "nearest_even")

    def plain() -> Any:
        return keras.optimizers.SGD(1e-3, momentum=0.9)

    def wrapped(recipe: Recipe, **average: Any) -> Any:
        return QuantizedOptimizer(plain(), recipe, **average)

    rounded, exact, random = (
        Recipe(weight=q, gradient=q, momentum=q),
        Recipe(),
        swalp(8).resolve(out=0),
    )
    made = {"keras SGD": plain}
    for name, recipe, average in (
        ("float32", exact, {}),
        ("float32, average not due", exact, {"swa_start": 10**9}),
        ("float32, average", exact, {"swa_start": 0}),
        ("nearest", rounded, {}),
        ("stochastic", random, {}),
        ("stochastic, average", random, {"swa_start": 0}),
    ):
        made[f"wrapped, {name}"] = partial(wrapped, recipe, **average)
        made[f"native, {name}"] = partial(SGD, 1e-3, 0.9, recipe=recipe, **average)
    return made


def stepper(
    make: Callable[[], Any], shapes: Sequence[tuple[int, ...]], mode: str
) -> Callable[[], None]:
    """A function that makes one step of a new optimizer on new variables, and waits for it."""
    import keras
    from keras import ops

    random = np.random.default_rng(0)
    arrays = [random.standard_normal(shape).astype(np.float32) / 10 for shape in shapes]
    variables = [keras.Variable(array) for array in arrays]
    gradients = [ops.convert_to_tensor(array[::-1].copy()) for array in arrays]
    optimizer = make()
    optimizer.build(variables)
    backend = keras.backend.backend()
    if backend == "jax":
        return _on_jax(optimizer, variables, gradients, mode)

    def apply() -> None:
        optimizer.apply(gradients, variables)

    if backend == "torch":
        import torch

        apply = torch.no_grad()(apply)
    elif mode != "eager":
        import tensorflow as tf

        apply = tf.function(apply, jit_compile=mode == "XLA", autograph=False)

    def step() -> None:
        apply()
        ops.convert_to_numpy(variables[-1][-1])

    return step


def _on_jax(
    optimizer: Any, variables: list[Any], gradients: list[Any], mode: str
) -> Callable[[], None]:
    import jax

    if mode == "eager":

        def eager() -> None:
            optimizer.apply(gradients, variables)
            jax.block_until_ready(
                [variable.value for variable in (*variables, *optimizer.variables)]
            )

        return eager
    update = jax.jit(optimizer.stateless_apply, donate_argnums=(0, 2))
    state = [[v.value for v in optimizer.variables], [v.value for v in variables]]

    def step() -> None:
        state[1], state[0] = jax.block_until_ready(update(state[0], gradients, state[1]))

    return step


def measure(shapes: Sequence[tuple[int, ...]], mode: str, rounds: int) -> dict[str, float]:
    """Seconds of a step of each optimizer."""
    return minima(
        {name: stepper(make, shapes, mode) for name, make in optimizers().items()}, rounds
    )


def minima(
    steps: dict[str, Callable[[], Any]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Seconds of each step, the least of several rounds that make one step of each."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 2):
        for name, step in steps.items():
            start = clock()
            step()
            if turn >= 2:  # the first traces and compiles, the second may settle buffers
                times[name].append(clock() - start)
    return {name: min(found) for name, found in times.items()}


def report(models: Sequence[str], modes: Sequence[str], rounds: int) -> None:
    """Print the table of the backend that Keras runs on."""
    import keras

    from qemu_swalp._util.tables import table

    has = [mode for mode in MODES[keras.backend.backend()] if mode in modes]
    columns = [(model, mode) for model in models for mode in has]
    found = [measure(SHAPES[model], mode, rounds) for model, mode in columns]
    names = list(found[0])
    lines = [
        [name, *(f"{column[name] / column[names[0]]:.1f}" for column in found)]
        for name in names[1:]
    ]
    lines.insert(0, [f"{names[0]}, ms", *(f"{1e3 * column[names[0]]:.2f}" for column in found)])
    print(heading(rounds))
    print(table(("step", *(f"{model}, {mode}" for model, mode in columns)), lines), flush=True)


def heading(rounds: int) -> str:
    """What is measured on."""
    import keras

    return (
        f"\nKeras {keras.__version__} on {keras.backend.backend()}, {platform.machine()},"
        f" {os.cpu_count()} CPUs, least of {rounds}\n"
    )


def main() -> int:
    """Each backend in a process of its own; 1 where one fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    return each_backend(parser, __spec__.name, lambda c: report(c.models, c.modes, c.rounds))


def each_backend(
    parser: argparse.ArgumentParser, module: str, run: Callable[[argparse.Namespace], None]
) -> int:
    """run(arguments) on each backend, in a process of its own; 1 where one fails."""
    parser.add_argument("--backends", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument(
        "--modes", nargs="+", choices=MODES["tensorflow"], default=list(MODES["tensorflow"])
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.here:
        run(chosen)
        return 0
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3"} | os.environ
    return max(
        subprocess.run(
            [sys.executable, "-m", module, "--here", *sys.argv[1:]],
            env={**quiet, "KERAS_BACKEND": backend},
        ).returncode
        for backend in chosen.backends
    )


if __name__ == "__main__":
    sys.exit(main())
