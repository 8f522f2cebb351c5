"""What makes an emulated epoch slower than a float one: `python -m tests.benchmarks.vision_step`.

A training step of a network of `qemu-swalp reproduce`, in float32 and with every number in 8 bits,
by turns, in milliseconds of processor time on one thread: the least of several rounds, since other
work beside it only adds. Of the 8-bit step, the part that the rounding kernels take is shown too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from qemu_swalp_torch import SGD, quantize_activations
from torch.nn import functional as F

from qemu_swalp._util.tables import table
from qemu_swalp.experiments.vision.models import build
from qemu_swalp.experiments.vision.settings import Settings
from qemu_swalp.kernels.cpu import Cpu

ROUNDS = 25


def trained(model: str, width: int, word: int | None) -> tuple[Any, SGD]:
    """A network of ten classes and its optimizer, as the experiments make them."""
    settings = Settings()
    torch.manual_seed(0)
    network, recipe = build(model, 10, width, 0), settings.recipe(word)
    optimizer = SGD(network.named_parameters(), lr=0.01, momentum=0.9, recipe=recipe, seed=0)
    if word is not None:
        quantize_activations(network, recipe, seed=0, **network.rounded)  # type: ignore[arg-type]
    return network.train(), optimizer


@contextmanager
def kernels_timed(spent: list[float]) -> Iterator[None]:
    """Add the seconds of each rounding of a tensor to spent[0]."""
    quantize = Cpu.quantize

    def timed(*args: Any, **options: Any) -> bool:
        start = time.process_time()
        done = quantize(*args, **options)
        spent[0] += time.process_time() - start
        return done

    Cpu.quantize = timed  # type: ignore[method-assign]
    try:
        yield
    finally:
        Cpu.quantize = quantize  # type: ignore[method-assign]


def step(network: Any, optimizer: SGD, x: Any, y: Any) -> tuple[float, float, float]:
    """Seconds of both passes, of the update, and of the kernels in both passes."""
    spent = [0.0]
    optimizer.zero_grad()
    with kernels_timed(spent):
        start = time.process_time()
        F.cross_entropy(network(x), y).backward()  # type: ignore[no-untyped-call]
        passed = time.process_time()
    optimizer.step()
    return passed - start, time.process_time() - passed, spent[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="steps of a network, in float32 and in 8 bits")
    parser.add_argument("--model", choices=("vgg16", "vgg16bn"), default="vgg16bn")
    parser.add_argument("--width", type=int, default=16, help="(default: 16)")
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 128], help="images")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for batch in given.batches:
        x, y = torch.randn(batch, 3, 32, 32), torch.randint(0, 10, (batch,))
        pairs = {word: trained(given.model, given.width, word) for word in (None, 8)}
        seconds: dict[int | None, list[tuple[float, float, float]]] = {None: [], 8: []}
        for _ in range(ROUNDS):
            for word, pair in pairs.items():
                seconds[word].append(step(*pair, x, y))
        least = {
            word: [1e3 * min(part) for part in zip(*s, strict=True)] for word, s in seconds.items()
        }
        base = sum(least[None][:2])
        for word, (passes, update, kernels) in least.items():
            numbers = "float32" if word is None else f"{word} bits"
            parts = (f"{part:.1f}" for part in (passes, kernels, update))
            rows.append([str(batch), numbers, *parts, f"{(passes + update) / base:.2f}"])
    print(table(["batch", "numbers", "passes", "kernels", "update", "ratio"], rows, left=(1,)))


if __name__ == "__main__":
    main()
