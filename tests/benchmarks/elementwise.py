"""Cost of elementary operations that are rounded: `python -m tests.benchmarks.elementwise`.

Nanoseconds of the processor for an element of 2^20 float32 numbers; and a training step of a small
convolutional network with every elementwise operation rounded, as a multiple of the step in
float32. One thread; the least of several calls.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from qemu_swalp_torch import quantize_elementwise
from torch import nn

import qemu_swalp as q
from qemu_swalp.training import Recipe
from tests.benchmarks.cliffs import processor_clock

RULES = ("bf16/nearest_even", "bf16/stochastic")


def least(call: Callable[[], object], calls: int) -> float:
    """Seconds of the processor, after one call that is not counted."""
    call()
    return min(processor_clock(call, 1) for _ in range(calls))


def operation(name: str, rule: str, calls: int) -> float:
    """Nanoseconds for an element."""
    a, b = np.random.default_rng(0).standard_normal((2, 1 << 20), np.float32)
    call = partial(getattr(q, name), a, b, rule, random=q.RandomBits(seed=1))
    return 1e9 * least(call, calls) / a.size


def training_step(rule: str | None, calls: int) -> float:
    """Seconds of a step."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, padding=1, stride=2), nn.BatchNorm2d(64), nn.GELU()),
        *(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(4096, 256), nn.LayerNorm(256)),
        *(nn.Tanh(), nn.Linear(256, 10)),
    )
    if rule is not None:
        quantize_elementwise(model, Recipe(elementwise=rule), seed=0)
    x, labels = torch.randn(32, 3, 32, 32), torch.randint(0, 10, (32,))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return least(step, calls)


def main(arguments: list[str] | None = None) -> int:
    """Prints a line for each operation, and one for the training step."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.elementwise", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--calls", type=int, default=5)
    calls = parser.parse_args(arguments).calls
    torch.set_num_threads(1)
    q.set_num_threads(1)
    print(f"{'':30} {' '.join(f'{rule:>18}' for rule in RULES)}")
    for name in ("add", "multiply", "divide"):
        found = [operation(name, rule, calls) for rule in RULES]
        print(f"{name + ', ns':30} {' '.join(f'{value:18.1f}' for value in found)}", flush=True)
    plain = training_step(None, calls)
    found = [training_step(rule, calls) / plain for rule in RULES]
    print(f"{'training step, × float32':30} {' '.join(f'{value:18.1f}' for value in found)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
