"""Weights that are rounded from accumulators, as the last step left them.

A step begins from the accumulators. What somebody has written into a weight since the last one
(clipping, a constraint, weights loaded into the model) would be lost; it becomes the accumulator's.
After a checkpoint is loaded, or in a copy, nobody has seen the weights: those that differ from what
their accumulators are rounded to were written. Where the checkpoint's recipe is another, they may
be rounded by that one, by ours, or by one after the other. What is written onto the other neighbour
of an accumulator that is rounded at random cannot be told from a rounding, and is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from qemu_swalp.interop.torch import is_dtensor, rounded
from qemu_swalp.training import Quantizer

from .param_groups import ACCUMULATOR
from .param_plan import Entry
from .schedule_free import changes_weights


class ShownWeights:
    """Copies of the weights of one optimizer that have an accumulator; a checkpoint has none."""

    def __init__(self) -> None:
        self.weights: dict[int, Tensor] = {}
        self.former: Mapping[int, Quantizer | None] | None = {}
        """How the weights of a checkpoint of another recipe were rounded, by their positions among
        the parameters; None if that is not known: they then begin from the accumulators.
        """

    def adopt(
        self,
        optimizer: Optimizer,
        entry: Entry,
        accumulator: Tensor,
        write: Callable[[Tensor, Tensor], object],
    ) -> None:
        """Write into the accumulator the elements of the weight that were changed since `note`."""
        p, shown = entry.parameter, self.weights.get(entry.tensor)
        if torch.is_grad_enabled() or changes_weights(optimizer):
            return
        if shown is not None and shown.shape == p.shape:
            expected = [shown]
        elif shown is not None or self.former is None:
            return
        else:
            expected = self._roundings(entry, accumulator)
        same = torch.zeros_like(p, dtype=torch.bool)
        for value in expected:
            value = value.to(p.dtype)
            same = same | (p == value) | ((p != p) & (value != value))
        write(accumulator, torch.where(same, accumulator, p.to(accumulator.dtype)))

    @torch.no_grad()
    def note(self, optimizer: Optimizer, entries: Iterable[Entry]) -> None:
        """At the end of a step: what the weights are."""
        self.former = {}
        self.weights = {
            entry.tensor: entry.parameter.detach().clone()
            for entry in entries
            if ACCUMULATOR in optimizer.state.get(entry.parameter, {})
            and not changes_weights(optimizer)
        }

    def forget(self, former: Mapping[int, Quantizer | None] | None) -> None:
        """At loading: weights and accumulators are others."""
        self.weights, self.former = {}, former

    def _roundings(self, entry: Entry, accumulator: Tensor) -> list[Tensor]:
        """What a weight that nobody wrote may be."""
        ours = entry.recipe.weight
        theirs = ours if self.former is None else self.former.get(entry.tensor, ours)
        found = _roundings(accumulator, theirs)
        if theirs != ours:
            found += [x for start in (accumulator, *found) for x in _roundings(start, ours)]
        return found


def _roundings(accumulator: Tensor, quantizer: Quantizer | None) -> list[Tensor]:
    """What an accumulator may have been rounded to: at random, to one of its two neighbours."""
    if quantizer is None:
        return [accumulator]
    modes = ["toward_negative", "toward_positive"] if quantizer.rounding.stochastic else [None]
    plain = [Quantizer(quantizer.format, mode or quantizer.rounding) for mode in modes]
    if not is_dtensor(accumulator):
        return [rounded(accumulator, q) for q in plain]
    from ..tensors.dtensor import round_shard

    return [round_shard(accumulator, q, None) for q in plain]
