"""What quantizing costs in every library and way of running: `python -m tests.benchmarks.programs`.

A figure is the least time of `quantize` over the least time of `numpy.copyto` of the same float32
array, both measured in turn in one process. NumPy and PyTorch write to an array that is there; the
others allocate their results. `--without` measures the reference implementation in TensorFlow and
JAX instead, as it is without the kernels.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np

import qemu_swalp as q
from qemu_swalp import kernels
from qemu_swalp._util.tables import table
from tests.benchmarks.libraries import apart
from tests.benchmarks.timing import Call, alternate, host_clock

FORMATS = ("e4m3fn", "bfp<8,axis=0>", "mxfp4", "nvfp4", "int<8,axis=0>")
ROUNDINGS = ("nearest_even", "stochastic")

Round = Callable[..., Any]


def calls(x: np.ndarray, rounded: Round) -> dict[str, Call]:
    """What is measured, by its column: `rounded(x, **options)` in every library."""
    import jax
    import tensorflow as tf
    import torch

    of_torch, of_tensorflow, of_jax = torch.tensor(x), tf.constant(x), jax.numpy.asarray(x)
    out, torch_out = apart(x), torch.zeros_like(of_torch)
    graph, xla = (tf.function(rounded, autograph=False, jit_compile=jit) for jit in (False, True))
    jit = jax.jit(rounded)

    def waited(function: Round) -> None:
        jax.block_until_ready(function(of_jax))

    return {
        "NumPy": partial(rounded, x, out=out),
        "PyTorch": partial(rounded, of_torch, out=torch_out),
        "TF eager": partial(rounded, of_tensorflow),
        "TF graph": partial(graph, of_tensorflow),
        "TF XLA": partial(xla, of_tensorflow),
        "JAX eager": partial(waited, rounded),
        "JAX jit": partial(waited, jit),
    }


def ratios(x: np.ndarray, format: str, rounding: str, seconds: float) -> dict[str, float]:
    """Of each column, the least time over that of a copy."""
    random = q.RandomBits(seed=1) if rounding == "stochastic" else None
    ways = calls(x, partial(q.quantize, format=format, rounding=rounding, random=random))
    copy, found = partial(np.copyto, apart(x), x), {}
    for name, way in ways.items():
        way()  # traces and compiles
        found[name] = alternate(host_clock, copy, way, seconds).ratio
    return found


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=24, help="2^SIZE elements")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--formats", nargs="+", default=FORMATS)
    parser.add_argument("--without", action="store_true")
    chosen = parser.parse_args()
    rows = 1 << chosen.size // 2
    x = np.random.default_rng(0).standard_normal((rows, (1 << chosen.size) // rows))
    x = x.astype(np.float32)
    lines, names = [], []
    with kernels.disabled() if chosen.without else nullcontext():
        for format in chosen.formats:
            found = [ratios(x, format, rounding, chosen.seconds) for rounding in ROUNDINGS]
            names = list(found[0])
            lines.append(
                [format, *(" / ".join(f"{each[name]:.1f}" for each in found) for name in names)]
            )
    print(table((f"2^{chosen.size} float32, {q.get_num_threads()} threads", *names), lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
