"""Weights that are rounded from accumulators, as the last step left them.

A step begins from the accumulators. What somebody has written into a weight since the last one
(clipping, a constraint, weights loaded into the model) would be lost; it becomes the accumulator's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from .param_groups import ACCUMULATOR
from .param_plan import Entry
from .schedule_free import changes_weights


class ShownWeights:
    """Copies of the weights of one optimizer that have an accumulator; a checkpoint has none."""

    def __init__(self) -> None:
        self.weights: dict[int, Tensor] = {}

    def adopt(
        self, entry: Entry, accumulator: Tensor, write: Callable[[Tensor, Tensor], object]
    ) -> None:
        """Write into the accumulator the elements of the weight that were changed since `note`."""
        p, shown = entry.parameter, self.weights.get(entry.tensor)
        if shown is None or torch.is_grad_enabled() or shown.shape != p.shape:
            return
        same = (p == shown) | ((p != p) & (shown != shown))
        write(accumulator, torch.where(same, accumulator, p.to(accumulator.dtype)))

    @torch.no_grad()
    def note(self, optimizer: Optimizer, entries: Iterable[Entry]) -> None:
        """At the end of a step: what the weights are."""
        self.weights = {
            entry.tensor: entry.parameter.detach().clone()
            for entry in entries
            if ACCUMULATOR in optimizer.state.get(entry.parameter, {})
            and not changes_weights(optimizer)
        }

    def forget(self, optimizer: Optimizer) -> None:
        """At loading: weights and accumulators are others."""
        self.weights = {}
