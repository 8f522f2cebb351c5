"""Cost of one step of quantized SGD: `python -m tests.benchmarks.sgd_step [--threads 1 2] [--device
cuda]`.

The parameters are the 161 tensors of a ResNet-50, as it is and with an eighth of its channels;
gradients are given. Every number is rounded (role weight, gradient, momentum), or none ("float32"),
by our `SGD`; "hooked" is PyTorch's fused one after `quantize_optimizer`. Figures are times as
multiples of that of `torch.optim.SGD(fused=True)` with the same momentum and weight decay, which is
given in milliseconds: the least of several rounds, in each of which every optimizer makes one step,
so that what else the machine does bears on all alike.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from qemu_swalp_torch import SGD, quantize_optimizer

from qemu_swalp._util.tables import table
from qemu_swalp.training import SGD as CoreSGD, Quantizer, Recipe, swalp
from tests.benchmarks import machine
from tests.benchmarks.libraries import DEVICES

HYPER = {"momentum": 0.9, "weight_decay": 1e-4}
NEAREST = Quantizer("bfp<8,axis=0>", "nearest_even")
RECIPES = {
    "float32": Recipe(),
    "bfp8, nearest": Recipe(weight=NEAREST, gradient=NEAREST, momentum=NEAREST),
    "bfp8, stochastic": swalp(8).resolve(out=0),
}
WIDTHS = {"ResNet-50": 64, "ResNet-50, 1/8 of the channels": 8}


def shapes(width: int) -> Iterator[tuple[int, ...]]:
    """The parameters of a ResNet-50 whose first convolution has so many channels: 161 tensors."""

    def convolution(channels: int, inputs: int, size: int) -> Iterator[tuple[int, ...]]:
        yield from ((channels, inputs, size, size), (channels,), (channels,))

    yield from convolution(width, 3, 7)
    inputs = width
    for stage, blocks in enumerate((3, 4, 6, 3)):
        narrow, wide = width << stage, width << (stage + 2)
        for block in range(blocks):
            yield from convolution(narrow, inputs, 1)
            yield from convolution(narrow, narrow, 3)
            yield from convolution(wide, narrow, 1)
            if block == 0:
                yield from convolution(wide, inputs, 1)
            inputs = wide
    yield from ((1000, inputs), (1000,))


def on_numpy(recipe: Recipe, arrays: dict[str, np.ndarray]) -> Callable[[], None]:
    """A function that makes one step of the core's SGD."""
    optimizer = CoreSGD(1e-3, **HYPER, recipe=recipe)
    gradients: dict[str, Any] = {name: array[::-1].copy() for name, array in arrays.items()}
    held = [dict(arrays), optimizer.init(arrays)]

    def step() -> None:
        held[:] = optimizer.update(held[0], gradients, held[1])  # type: ignore[arg-type]

    return step


def on_torch(
    make: Callable[[list[Any]], torch.optim.Optimizer], arrays: dict[str, np.ndarray], device: str
) -> Callable[[], None]:
    """A function that makes one step of an optimizer of tensors."""
    parameters = [
        torch.nn.Parameter(torch.tensor(array, device=device)) for array in arrays.values()
    ]
    for p, array in zip(parameters, arrays.values(), strict=True):
        p.grad = torch.tensor(array[::-1].copy(), device=device)
    optimizer = make(parameters)

    def step() -> None:
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def steppers(arrays: dict[str, np.ndarray], device: str) -> dict[str, Callable[[], None]]:
    """What is compared, `torch.optim.SGD(fused=True)` first."""
    theirs = partial(torch.optim.SGD, lr=1e-3, **HYPER)
    found = {
        "torch.optim.SGD, fused": on_torch(partial(theirs, fused=True), arrays, device),
        "torch.optim.SGD, foreach": on_torch(partial(theirs, foreach=True), arrays, device),
    }
    for name, recipe in RECIPES.items():
        found[f"PyTorch, {name}"] = on_torch(
            partial(SGD, lr=1e-3, **HYPER, recipe=recipe), arrays, device
        )
        if recipe != Recipe():
            found[f"PyTorch, fused, hooked, {name}"] = on_torch(
                lambda ps, recipe=recipe: quantize_optimizer(theirs(ps, fused=True), recipe),
                arrays,
                device,
            )
        if device == "cpu":
            found[f"NumPy, {name}"] = on_numpy(recipe, arrays)
    return found


def measure(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Seconds of a step of each."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 2):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn >= 2:  # the first makes state and plans
                times[name].append(time.perf_counter() - start)
    return {name: min(found) for name, found in times.items()}


def main(arguments: list[str] | None = None) -> None:
    """Print a table for each number of threads."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.sgd_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", choices=WIDTHS, default=list(WIDTHS))
    parser.add_argument(
        "--threads", nargs="+", type=int, default=[1, 2], help="of our kernels and PyTorch"
    )
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    chosen = parser.parse_args(arguments)
    rng = np.random.default_rng(0)
    models = {
        name: {
            str(i): rng.standard_normal(shape, np.float32) / 10
            for i, shape in enumerate(shapes(WIDTHS[name]))
        }
        for name in chosen.models
    }
    libraries = [kind() for kind in DEVICES[chosen.device] if not kind.missing()]
    print(
        "; ".join(
            f"{name} {value}"
            for name, value in machine.description(libraries, []).items()
            if name != "threads"
        )
    )
    for threads in chosen.threads:
        machine.set_threads(threads, libraries)
        found = [
            measure(steppers(arrays, chosen.device), chosen.rounds) for arrays in models.values()
        ]
        first = next(iter(found[0]))
        lines = [[f"{first}, ms", *(f"{1e3 * column[first]:.2f}" for column in found)]]
        lines += [
            [name, *(f"{column[name] / column[first]:.2f}" for column in found)]
            for name in found[0]
        ][1:]
        print(
            f"\n{threads} threads, {chosen.device}\n\n" + table(("step", *models), lines),
            flush=True,
        )


if __name__ == "__main__":
    main()
