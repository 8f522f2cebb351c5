"""Cost of products summed up in low precision: `python -m tests.benchmarks.products [--size 512]
[--device cuda]`.

Square matrices of e4m3fn and of float32 numbers, the first of which are computed in float32
throughout, by `qemu_swalp.matmul` on PyTorch tensors. Nanoseconds are for each of the size³ terms,
the least of several rounds, beside `torch.matmul` of the same matrices; "reference" is ours
without kernels, of fewer rows, once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

import qemu_swalp as q
from qemu_swalp import kernels
from qemu_swalp._util.tables import table
from tests.benchmarks import machine
from tests.benchmarks.libraries import DEVICES

ACCUMULATIONS = (
    "fp16/nearest_even",
    "float<6,9>/nearest_even; chunk=64",
    "fp16/nearest_even; product=fp16/nearest_even",
    "float<8,13>/toward_zero; group=32; chunk=128; total=float<8,23>/nearest_even",
    "fp16/stochastic",
    "fp16/stochastic<8>",
)
ROWS = 8
"""Of what the reference implementation multiplies."""


def seconds(call: Callable[[], Any], rounds: int) -> float:
    """The least of a call."""
    times = []
    for _ in range(rounds + 1):  # the first makes plans, or compiles
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.products",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument(
        "--threads", type=int, default=q.get_num_threads(), help="of our kernels and PyTorch"
    )
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args(arguments)
    libraries = [kind() for kind in DEVICES[chosen.device] if not kind.missing()]
    machine.set_threads(chosen.threads, libraries)
    print(
        "; ".join(f"{name} {value}" for name, value in machine.description(libraries, []).items())
        + "\n"
    )
    n, rng = chosen.size, np.random.default_rng(0)
    fine = [
        torch.tensor(rng.standard_normal((n, n), np.float32), device=chosen.device) for _ in "ab"
    ]
    operands = {"e4m3fn": [q.quantize(x, "e4m3fn") for x in fine], "float32": fine}
    lines = [
        [
            "torch.matmul",
            *(
                f"{1e9 * seconds(partial(torch.matmul, *pair), chosen.rounds) / n**3:.3g}"
                for pair in operands.values()
            ),
            "",
        ]
    ]
    for accumulation in ACCUMULATIONS:
        call = partial(q.matmul, accumulation=accumulation, random=q.RandomBits(1))
        own = [
            f"{1e9 * seconds(partial(call, *pair), chosen.rounds) / n**3:.3g}"
            for pair in operands.values()
        ]
        with kernels.disabled():
            program = seconds(lambda call=call: call(fine[0][:ROWS], fine[1]), 1) / (ROWS * n * n)
        lines.append([accumulation, *own, f"{1e9 * program:.3g}"])
    print(table((f"ns a term, {n}³", *operands, "reference"), lines), flush=True)


if __name__ == "__main__":
    main()
