"""The network of `mlp` on PyTorch."""

from __future__ import annotations

import numpy as np
import torch
from qemu_swalp_torch import SGD, Averager, disabled, quantize_activations
from torch import Tensor, nn

from ...training import SWALPSchedule
from ..common.data import Dataset
from ..common.report import Progress
from ..common.sgd_runs import shuffles
from ..softmax.on_torch import FRAMEWORK, threads
from .mlp import Layer, Logits, epoch, initial, recipe_of
from .settings import Settings

__all__ = ["FRAMEWORK", "network", "train"]


class StackedLinear(nn.Module):
    """As many linear layers as runs: (runs, batch, inputs) → (runs, batch, outputs)."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.weight, self.bias = (nn.Parameter(torch.from_numpy(array)) for array in layer)

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight.mT)


def network(first: Layer, second: Layer) -> nn.Sequential:
    """The perceptron, once for each run."""
    return nn.Sequential(StackedLinear(first), nn.ReLU(), StackedLinear(second))


@threads()
def train(
    settings: Settings, data: Dataset, word: int | None, decayed: bool, bar: Progress, label: str
) -> tuple[Logits, Logits]:
    """A `mlp.Train`."""
    x, y = torch.from_numpy(data.train), torch.from_numpy(data.train_labels)
    steps, recipe = settings.network_epochs * epoch(settings, len(x)), recipe_of(word)
    model = network(*initial(settings.run_seeds, x.shape[1], settings.hidden))
    optimizer = SGD(
        model.parameters(),
        lr=settings.network_rate,
        momentum=settings.momentum,
        weight_decay=settings.network_decay,
        recipe=recipe,
        seed=settings.seed,
    )
    if word is not None:
        quantize_activations(model, recipe, modules=nn.ReLU, seed=settings.seed)
    averager = Averager(model, start=settings.network_start * epoch(settings, len(x)))
    averager.attach(optimizer)
    schedule = SWALPSchedule(settings.network_rate, steps)
    batches = shuffles(len(x), settings.network_batch, settings.run_seeds)
    for step in bar.steps(steps, label):
        batch = torch.from_numpy(next(batches))
        loss = nn.functional.cross_entropy(
            model(x[batch]).flatten(0, 1), y[batch].flatten(), reduction="sum"
        )
        optimizer.zero_grad()
        torch.autograd.backward(loss / batch.shape[1])
        if decayed:
            optimizer.param_groups[0]["lr"] = schedule(step - 1)
        optimizer.step()
    with disabled(model):
        last = _logits(model, data)
        with averager.swap():
            return last, _logits(model, data)


@torch.no_grad()
def _logits(model: nn.Module, data: Dataset) -> Logits:
    runs = next(model.parameters()).shape[0]
    return np.asarray(model(torch.from_numpy(data.test).expand(runs, -1, -1)).numpy())
