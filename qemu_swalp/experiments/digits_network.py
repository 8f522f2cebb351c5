"""Part two of `digits`: a network with every number in block floating point, on PyTorch.

Algorithm 2 of Yang et al. 2019 on a multilayer perceptron with one hidden layer: weights, gradients, momenta,
activations after the ReLU and their errors in `bfp<W>`, stochastic rounding; the logits are not rounded. The runs of
all seeds are stacked along axis 0 of every tensor, and blocks are those of SWALP's small-block design within a run: one
exponent for each output channel of a weight, each bias, each sample of an activation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from qemu_swalp_torch import SGD, Averager, disabled, quantize_activations
from torch import Tensor, nn

from .. import bfp
from ..training import Quantizer, Recipe, SWALPSchedule
from .data import CLASSES, Dataset
from .descent import shuffles
from .report import Progress, Row
from .softmax import LOW_PRECISION, METHODS
from .softmax_torch import one_thread

if TYPE_CHECKING:
    from .digits import Settings


class StackedLinear(nn.Module):
    """As many linear layers as seeds: (runs, batch, inputs) → (runs, batch, outputs)."""

    def __init__(self, seeds: Sequence[int], inputs: int, outputs: int) -> None:
        super().__init__()
        layers = [_linear(seed, inputs, outputs) for seed in seeds]
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach()[None] for layer in layers]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight.mT)


def _linear(seed: int, inputs: int, outputs: int) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(inputs, outputs)


def network(seeds: Sequence[int], inputs: int, hidden: int) -> nn.Sequential:
    """The perceptron, once for each seed."""
    return nn.Sequential(StackedLinear(seeds, inputs, hidden), nn.ReLU(), StackedLinear(seeds, hidden, CLASSES))


def recipe_of(word: int | None) -> Recipe:
    """Every number in `word`-bit block floating point; None: float32."""
    if word is None:
        return Recipe()
    q = Quantizer(bfp(word, axis=(0, 1)))
    return Recipe(weight=q, activation=q, error=q, gradient=q, momentum=q)


def total_steps(settings: Settings, samples: int) -> int:
    """Steps of all runs, float included."""
    return 2 * (1 + len(settings.words)) * settings.network_epochs * _epoch(settings, samples)


def _epoch(settings: Settings, samples: int) -> int:
    return max(samples // settings.network_batch, 1)


def rows(settings: Settings, data: Dataset, bar: Progress) -> list[Row]:
    """A row for each number of bits, method and seed."""
    found: list[Row] = []
    with one_thread():
        for word in (None, *settings.words):
            last, average = _train(settings, data, word, False, bar)
            decayed, _ = _train(settings, data, word, True, bar)
            methods = METHODS if word is None else LOW_PRECISION
            for method, errors in zip(methods, (last, decayed, average), strict=True):
                found += [{"bits": word or "float32", "method": method, "seed": seed, "test_error": error}
                          for seed, error in zip(settings.run_seeds, errors, strict=True)]
    return found


def _train(settings: Settings, data: Dataset, word: int | None, decayed: bool,
           bar: Progress) -> tuple[list[float], list[float]]:
    """Test errors of each run: of the last weights and of their average."""
    x, y = torch.from_numpy(data.train), torch.from_numpy(data.train_labels)
    epoch = _epoch(settings, len(x))
    steps, recipe = settings.network_epochs * epoch, recipe_of(word)
    model = network(settings.run_seeds, x.shape[1], settings.hidden)
    optimizer = SGD(model.parameters(), lr=settings.network_rate, momentum=settings.momentum,
                    weight_decay=settings.network_decay, recipe=recipe, seed=settings.seed)
    if word is not None:
        quantize_activations(model, recipe, modules=nn.ReLU, seed=settings.seed)
    averager = Averager(model, start=settings.network_start * epoch)
    averager.attach(optimizer)
    schedule = SWALPSchedule(settings.network_rate, steps)
    batches = shuffles(len(x), settings.network_batch, settings.run_seeds)
    for step in bar.steps(steps, f"network, {f'bfp<{word}>' if word else 'float32'}"):
        batch = torch.from_numpy(next(batches))
        loss = nn.functional.cross_entropy(model(x[batch]).flatten(0, 1), y[batch].flatten(), reduction="sum")
        optimizer.zero_grad()
        torch.autograd.backward(loss / batch.shape[1])
        if decayed:
            optimizer.param_groups[0]["lr"] = schedule(step - 1)
        optimizer.step()
    with disabled(model):
        last = _errors(model, data)
        with averager.swap():
            return last, _errors(model, data)


@torch.no_grad()
def _errors(model: nn.Module, data: Dataset) -> list[float]:
    """Percent of the test images that each run takes for another digit."""
    runs = next(model.parameters()).shape[0]
    guesses = model(torch.from_numpy(data.test).expand(runs, -1, -1)).argmax(-1).numpy()
    return [100 * float(np.mean(guess != data.test_labels)) for guess in guesses]
