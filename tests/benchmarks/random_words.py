"""What stochastic rounding costs beside nearest rounding: `python -m tests.benchmarks.random_words
[--help]`.

Every library and execution mode runs the same three programs in turn, on float32 arrays:
nearest-even rounding, the random words alone, stochastic rounding. Times are the least of several
rounds, so that what else the machine does counts little; the ratio of two columns of one row is
what may be compared with other runs.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import qemu_swalp as q
from qemu_swalp._util.tables import table
from qemu_swalp.arrays import namespace_of

PROGRAMS: dict[str, Callable[[Any, Any, str], Any]] = {
    "nearest": lambda x, step, format: q.quantize(x, format),
    "words": lambda x, step, format: q.RandomBits(1, 2, step).words(
        namespace_of(x), tuple(x.shape), x
    ),
    "stochastic": lambda x, step, format: q.quantize(
        x, format, "stochastic", random=q.RandomBits(1, 2, step)
    ),
}


def numpy_mode(x: np.ndarray) -> tuple[Any, Any, Any, Any]:
    return x, 5, lambda f: f, lambda r: r


def torch_mode(x: np.ndarray) -> tuple[Any, Any, Any, Any]:
    import torch

    return torch.from_numpy(x), 5, lambda f: f, lambda r: r


def tensorflow_mode(x: np.ndarray, **function: Any) -> tuple[Any, Any, Any, Any]:
    import tensorflow as tf

    def compiled(f: Any) -> Any:
        return tf.function(f, autograph=False, **function) if function else f

    return tf.constant(x), tf.constant(5), compiled, lambda r: r[:1].numpy()


def jax_mode(x: np.ndarray, jit: bool) -> tuple[Any, Any, Any, Any]:
    import jax

    return (
        jax.numpy.asarray(x),
        jax.numpy.int32(5),
        jax.jit if jit else lambda f: f,
        jax.block_until_ready,
    )


MODES: dict[str, Callable[[np.ndarray], tuple[Any, Any, Any, Any]]] = {
    "numpy": numpy_mode,
    "torch": torch_mode,
    "tensorflow": tensorflow_mode,
    "tensorflow-function": lambda x: tensorflow_mode(x, jit_compile=False),
    "tensorflow-xla": lambda x: tensorflow_mode(x, jit_compile=True),
    "jax": lambda x: jax_mode(x, False),
    "jax-jit": lambda x: jax_mode(x, True),
}
"""(array, step, how to compile a function, how to await a result) of an array, for each library and
mode.
"""


def measure(mode: str, x: np.ndarray, format: str, rounds: int) -> dict[str, tuple[float, float]]:
    """Milliseconds of each program: (first call, least of the others). The programs take turns in
    every round.
    """
    array, step, compiled, await_ = MODES[mode](x)
    calls = {
        name: compiled(lambda x, step, f=program: f(x, step, format))
        for name, program in PROGRAMS.items()
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            await_(call(array, step))
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: (first, min(rest)) for name, (first, *rest) in times.items()}


def main() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    parser = argparse.ArgumentParser(
        description="Times of nearest and stochastic rounding, from one run."
    )
    parser.add_argument(
        "--modes", default=",".join(MODES), help="comma-separated (default: %(default)s)"
    )
    parser.add_argument(
        "--elements", type=int, default=1 << 20, help="of the array (default: %(default)s)"
    )
    parser.add_argument("--format", default="bfp8", help="what to round to (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=9, help="calls of each program (default: %(default)s)"
    )
    chosen = parser.parse_args()
    x = np.random.default_rng(0).standard_normal(chosen.elements).astype(np.float32)
    lines = []
    for mode in chosen.modes.split(","):
        found = measure(mode, x, chosen.format, chosen.rounds)
        nearest, words, stochastic = (found[name][1] for name in PROGRAMS)
        lines.append(
            (
                mode,
                f"{nearest:.2f}",
                f"{words:.2f}",
                f"{stochastic:.2f}",
                f"{stochastic / nearest:.2f}",
                f"{stochastic * 1e6 / chosen.elements:.1f}",
                f"{found['stochastic'][0]:.0f}",
            )
        )
    print(f"{chosen.elements} float32 to {chosen.format}; milliseconds")
    print(
        table(
            ("mode", "nearest", "words", "stochastic", "ratio", "ns/element", "first call"), lines
        )
    )


if __name__ == "__main__":
    main()
