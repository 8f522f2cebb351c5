"""Built-in presets on real data: `python -m tests.benchmarks.torch_recipes [--data-dir FOLDER]
[--device cuda]`.

A residual network and a transformer of some ten thousand parameters read MNIST at 14×14 pixels, the
transformer row by row, under each recipe and in float32: what a recipe rounds of weights, gradients
and state, of activations and errors, and of operands, is rounded. First and last layer stay in
float32 in recipes of operands, as those of NVFP4 and DeepSeek have it. The learning rate is
constant; the average is SWALP's, over the second half of the steps, evaluated in float32.

Then what a step costs, role by role (`--overhead` for that alone), as a multiple of the same step
in float32: the least of several rounds, in each of which every variant makes one step, so that what
else the machine does bears on all alike. With one thread on a CPU it is the time of the process,
which does not run while others have the CPU. Where QPyTorch is installed (`pip install qtorch
ninja`), it makes the swalp8 step too.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from qemu_swalp_torch import (
    SGD,
    Averager,
    disabled,
    quantize_activations,
    quantize_elementwise,
    quantize_gemms,
    quantize_optimizer,
    update_bn,
)
from torch import Tensor, nn
from torch.nn import functional as F

from qemu_swalp._util.tables import table
from qemu_swalp.experiments.common.data import mnist
from qemu_swalp.kernels import get_num_threads
from qemu_swalp.training import FULL_PRECISION, OPERANDS, Recipe, as_recipe, register_layout

BATCH, TESTED = 64, 2000


class ResNet(nn.Module):
    """Three residual blocks, 16 and 32 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.body = nn.Sequential(Block(16, 16, 2), Block(16, 32, 2), Block(32, 32, 1))
        self.last = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 14, 14) → (batch, 10)."""
        logits: Tensor = self.last(self.body(self.first(x[:, None])).mean((2, 3)))
        return logits


class Block(nn.Module):
    """Pre-activation residual block."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.relu1 = nn.BatchNorm2d(before), nn.ReLU()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm2, self.relu2 = nn.BatchNorm2d(after), nn.ReLU()
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        same = before == after and stride == 1
        self.short: nn.Module = (
            nn.Identity() if same else nn.Conv2d(before, after, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, before, n, n) → (batch, after, n/stride, n/stride)."""
        y = self.relu1(self.norm1(x))
        total: Tensor = self.short(y) + self.conv2(self.relu2(self.norm2(self.conv1(y))))
        return total


class Transformer(nn.Module):
    """Two layers of width 32 on the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.place = nn.Linear(14, 32), nn.Parameter(torch.zeros(14, 32))
        self.body = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    32, 4, 64, 0.0, nn.GELU(), batch_first=True, norm_first=True
                )
                for _ in range(2)
            )
        )
        self.last = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 14, 14) → (batch, 10)."""
        logits: Tensor = self.last(self.body(self.first(x) + self.place).mean(1))
        return logits


register_layout(Transformer, {"place": {"out": 0, "in": 1}})  # rows, as of an embedding

MODELS: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "ResNet": (ResNet, 0.05),
    "transformer": (Transformer, 0.1),
}
"""Each with its learning rate, for momentum 0.9."""

RECIPES = ("float32", "swalp8", "bf16_sr", "fp8_hybrid", "fp8_ibm", "mxfp8", "mxfp4", "nvfp4")


def data(folder: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """MNIST in pixels of 2×2, zero mean and unit variance."""
    found = mnist(folder)
    images = [
        F.avg_pool2d(torch.from_numpy(x).reshape(-1, 1, 28, 28), 2)[:, 0]
        for x in (found.train, found.test)
    ]
    mean, deviation = images[0].mean(), images[0].std()
    train, test = ((x - mean) / deviation for x in images)
    return (
        train,
        torch.from_numpy(found.train_labels),
        test[:TESTED],
        torch.from_numpy(found.test_labels)[:TESTED],
    )


ROUNDED = (nn.ReLU, nn.GELU, nn.LayerNorm, nn.MultiheadAttention)
"""Modules whose outputs are activations."""


def quantized(
    recipe: Recipe, model: nn.Module, rate: float, seed: int = 0
) -> torch.optim.Optimizer:
    """An optimizer of the model, both under a recipe."""
    recipe = replace(recipe, allow_empty=True)  # each recipe leaves some sections empty
    quantize_activations(model, recipe, modules=ROUNDED, seed=seed)
    quantize_gemms(model, recipe, exclude=("first", "last"), seed=seed)
    quantize_elementwise(model, recipe, seed=seed)
    return quantize_optimizer(
        torch.optim.SGD(model.parameters(), rate, momentum=0.9), recipe, seed=seed
    )


def native(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    """swalp8 with the package's own SGD."""
    quantize_activations(model, "swalp8", modules=ROUNDED)
    return SGD(model.parameters(), rate, 0.9, recipe="swalp8")


def qpytorch(model: nn.Module, rate: float) -> Any:
    """swalp8 by QPyTorch."""
    from qtorch import BlockFloatingPoint
    from qtorch.optim import OptimLP
    from qtorch.quant import Quantizer, quantizer

    number = BlockFloatingPoint(8, dim=0)
    both, whole = Quantizer(number, number, "stochastic", "stochastic"), quantizer(number)

    def rounded(module: nn.Module, inputs: Any, output: Any) -> Any:
        return (both(output[0]), *output[1:]) if isinstance(output, tuple) else both(output)

    for module in model.modules():
        if isinstance(module, ROUNDED):
            module.register_forward_hook(rounded)
    return OptimLP(
        torch.optim.SGD(model.parameters(), rate, momentum=0.9),
        weight_quant=whole,
        grad_quant=whole,
        momentum_quant=whole,
    )


def batches(x: Tensor, y: Tensor, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Random mini-batches."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        chosen = torch.randint(len(x), (BATCH,), generator=generator)
        yield x[chosen.to(x.device)], y[chosen.to(x.device)]


@torch.no_grad()
def error(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Percentage of wrong answers."""
    model.eval()
    wrong = sum(
        int((model(a).argmax(1) != b).sum())
        for a, b in zip(x.split(500), y.split(500), strict=True)
    )
    model.train()
    return 100 * wrong / len(y)


def train(
    name: str, recipe: Recipe, images: tuple[Tensor, ...], steps: int, seed: int
) -> tuple[float, float, float]:
    """Mean training loss of the last tenth of the steps; test errors of the last weights and of the
    average.
    """
    make, rate = MODELS[name]
    torch.manual_seed(seed)
    model = make().to(images[0].device)
    optimizer = quantized(recipe, model, rate, seed)
    averager = Averager(model, start=steps // 2)
    averager.attach(optimizer)
    x, y, test, labels = images
    losses = []
    for a, b in batches(x, y, steps, seed):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(a), b)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    last = error(model, test, labels)
    with averager.swap(), disabled(model):
        update_bn((a for a, _ in batches(x, y, 20, seed)), model)
        return statistics.mean(losses[-(steps // 10) :]), last, error(model, test, labels)


def accuracy(
    names: list[str], recipes: list[str], images: tuple[Tensor, ...], steps: int, seeds: int
) -> None:
    """Print a table for each model."""
    for name in names:
        lines = []
        for key in recipes:
            recipe = FULL_PRECISION if key == "float32" else as_recipe(key)
            start = time.perf_counter()
            found = [train(name, recipe, images, steps, seed) for seed in range(seeds)]
            seconds = time.perf_counter() - start
            lines.append(
                (
                    key,
                    *(_spread(column) for column in zip(*found, strict=True)),
                    f"{seconds / seeds:.0f}",
                )
            )
        size = sum(p.numel() for p in MODELS[name][0]().parameters())
        print(f"\n{name}, {size} parameters, {steps} steps of {BATCH} images, {seeds} seeds\n")
        print(
            table(
                ("recipe", "training loss", "test error, %", "of the average, %", "s a run"), lines
            ),
            flush=True,
        )


def _spread(values: tuple[float, ...]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3g} ± {deviation:.2g}"


def variants() -> dict[str, Recipe]:
    """One role at a time, in 8 bits; then the presets."""
    run, row = "bfp<8,axis=-1,size=32>", "bfp<8,axis=0>"
    by_name: dict[str, Recipe] = {"float32": FULL_PRECISION}
    for rounding in ("nearest_even", "stochastic"):
        roles = {
            role: Recipe(**{role: f"{row}/{rounding}"})
            for role in ("weight", "gradient", "momentum", "activation", "error")
        }
        roles |= {
            kind: Recipe(
                operands={part: f"{run}/{rounding}" for part in OPERANDS if part.startswith(kind)}
            )
            for kind in ("forward", "dgrad", "wgrad")
        }
        by_name |= {f"{role}, {rounding}": recipe for role, recipe in roles.items()}
    by_name["elementwise in bf16"] = Recipe(elementwise="bf16/nearest_even")
    return by_name | {name: as_recipe(name) for name in RECIPES[1:]}


def step_of(
    name: str, quantize: Callable[[nn.Module, float], Any], images: tuple[Tensor, ...]
) -> Callable[[], None]:
    """A function that makes one training step of a model, whose optimizer `quantize(model,
    learning_rate)` makes.
    """
    make, rate = MODELS[name]
    torch.manual_seed(0)
    model = make().to(images[0].device)
    optimizer = quantize(model, rate)
    a, b = images[0][:BATCH], images[1][:BATCH]

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(a), b).backward()
        optimizer.step()
        if a.is_cuda:
            torch.cuda.synchronize()

    return step


def overhead(names: list[str], images: tuple[Tensor, ...], rounds: int) -> None:
    """Print a table of all roles, a column for each model."""
    columns: list[dict[str, float]] = []
    alone = not images[0].is_cuda and torch.get_num_threads() == get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    for name in names:
        made: dict[str, Callable[[nn.Module, float], Any]] = {
            key: partial(quantized, recipe) for key, recipe in variants().items()
        }
        made["swalp8, native SGD"] = native
        if find_spec("qtorch"):
            made["swalp8 by QPyTorch"] = qpytorch
        steps = {key: step_of(name, quantize, images) for key, quantize in made.items()}
        times: dict[str, list[float]] = {key: [] for key in steps}
        for _ in range(rounds):
            for key, step in steps.items():
                start = clock()
                step()
                times[key].append(clock() - start)
        columns.append({key: min(found) for key, found in times.items()})
    lines: list[list[Any]] = [
        [key, *(f"{column[key] / column['float32']:.1f}" for column in columns)]
        for key in columns[0]
        if key != "float32"
    ]
    lines.insert(0, ["float32, ms", *(f"{1e3 * column['float32']:.1f}" for column in columns)])
    where = (
        torch.cuda.get_device_name()
        if images[0].is_cuda
        else (f"{platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} CPUs")
    )
    print(f"\nPyTorch {torch.__version__}, {where}, least of {rounds}, batches of {BATCH}\n")
    print(table(("a training step", *names), lines), flush=True)


def main() -> None:
    """Both tables, or what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data-dir", default="", help="holds mnist.npz; without it MNIST is downloaded"
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--overhead", action="store_true", help="the cost of a step alone")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    chosen = parser.parse_args()
    images = tuple(part.to(chosen.device) for part in data(chosen.data_dir))
    if not chosen.overhead:
        accuracy(chosen.models, chosen.recipes, images, chosen.steps, chosen.seeds)
    overhead(chosen.models, images, chosen.rounds)


if __name__ == "__main__":
    main()
