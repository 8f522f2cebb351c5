"""The usual losses, each elementwise operation rounded; arguments are those of PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .pointwise_functions import PointwiseFunctions


class Losses(PointwiseFunctions):
    """Losses made of rounded operations."""

    log_softmax: Callable[..., Tensor]

    def _over_batch(self, losses: Tensor, reduction: str, weight: Tensor | None = None) -> Tensor:
        """Reduced, the losses multiplied by their weights before."""
        if weight is not None:
            losses = self.mul(losses, weight)
        if reduction == "none":
            return losses
        return self.mean(losses) if reduction == "mean" else self.sum(losses)

    def _weighted_mean(self, losses: Tensor, reduction: str, weight: Tensor | None) -> Tensor:
        """The same, but that a mean is by the sum of the weights."""
        if weight is None or reduction != "mean":
            return self._over_batch(losses, reduction, weight)
        return self.div(self._over_batch(losses, "sum", weight), weight.sum())

    def mse_loss(
        self,
        input: Tensor,
        target: Tensor,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
    ) -> Tensor:
        reduction = reduction_of(reduction, size_average, reduce)
        losses = self.square(self.sub(input, target))
        return self._weighted_mean(losses, reduction, weight)

    def l1_loss(
        self,
        input: Tensor,
        target: Tensor,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
    ) -> Tensor:
        reduction = reduction_of(reduction, size_average, reduce)
        losses = self.sub(input, target).abs()
        return self._weighted_mean(losses, reduction, weight)

    def smooth_l1_loss(
        self,
        input: Tensor,
        target: Tensor,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
        beta: float = 1.0,
    ) -> Tensor:
        reduction = reduction_of(reduction, size_average, reduce)
        if beta == 0:
            return self.l1_loss(input, target, reduction=reduction)
        return self._over_batch(self.div(self._huber(input, target, beta), beta), reduction)

    def huber_loss(
        self,
        input: Tensor,
        target: Tensor,
        reduction: str = "mean",
        delta: float = 1.0,
        weight: Tensor | None = None,
    ) -> Tensor:
        reduction = reduction_of(reduction)
        losses = self._huber(input, target, delta)
        return self._over_batch(losses, reduction, weight)

    def _huber(self, input: Tensor, target: Tensor, delta: float) -> Tensor:
        """d²/2 where |d| < δ, else δ·(|d| - δ/2)."""
        d = self.sub(input, target)
        square = self.mul(self.square(d), 0.5)
        line = self.mul(self.sub(d.abs(), 0.5 * delta), delta)
        return torch.where(d.abs() < delta, square, line)

    def nll_loss(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        size_average: Any = None,
        ignore_index: int = -100,
        reduce: Any = None,
        reduction: str = "mean",
    ) -> Tensor:
        """input of shape (N, C, …) or (C,), target (N, …) or ()."""
        reduction = reduction_of(reduction, size_average, reduce)
        axis = 1 if input.ndim > 1 else 0
        counted = target != ignore_index
        index = torch.where(counted, target, 0)
        losses = -input.gather(axis, index.unsqueeze(axis)).squeeze(axis)
        factors = counted.to(input.dtype)
        if weight is not None:
            factors = factors * weight[index]
            losses = self.mul(losses, weight[index])
        losses = losses.masked_fill(~counted, 0.0)
        if reduction == "none":
            return losses
        total = self.sum(losses)
        return self.div(total, factors.sum()) if reduction == "mean" else total

    def cross_entropy(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        size_average: Any = None,
        ignore_index: int = -100,
        reduce: Any = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> Tensor:
        reduction = reduction_of(reduction, size_average, reduce)
        axis = 1 if input.ndim > 1 else 0
        logs, classes = self.log_softmax(input, axis), input.shape[axis]
        if target.is_floating_point():
            if label_smoothing:
                target = target * (1 - label_smoothing) + label_smoothing / classes
            terms = self.mul(logs, target)
            if weight is not None:
                terms = self.mul(terms, weight.reshape(-1, *(1,) * (input.ndim - 1 - axis)))
            losses = -self.sum(terms, axis)
            if reduction != "mean":
                return self._over_batch(losses, reduction)
            return self.div(self.sum(losses), losses.numel())
        plain = self.nll_loss(logs, target, weight, None, ignore_index, None, reduction)
        if not label_smoothing:
            return plain
        counted = target != ignore_index
        terms = logs
        if weight is not None:
            terms = self.mul(logs, weight.reshape(-1, *(1,) * (input.ndim - 1 - axis)))
        smooth = (-self.sum(terms, axis)).masked_fill(~counted, 0.0)
        if reduction != "none":
            smooth = self.sum(smooth)
        if reduction == "mean":
            count = counted if weight is None else weight[torch.where(counted, target, 0)] * counted
            smooth = self.div(smooth, count.sum())
        return self.add(
            self.mul(plain, 1 - label_smoothing), self.mul(smooth, label_smoothing / classes)
        )

    def binary_cross_entropy(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
    ) -> Tensor:
        """-(t·log p + (1 - t)·log(1 - p)), logarithms no less than -100, as in PyTorch."""
        reduction = reduction_of(reduction, size_average, reduce)
        yes = self.mul(target, self.function("log_above", input, -100.0))
        no = self.mul(1 - target, self.function("log_above", self.sub(1.0, input), -100.0))
        losses = -self.add(yes, no)
        return self._over_batch(losses, reduction, weight)

    def binary_cross_entropy_with_logits(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
    ) -> Tensor:
        """(1 - t)·x + w·softplus(-x), where w = 1 + (pos_weight - 1)·t."""
        reduction = reduction_of(reduction, size_average, reduce)
        soft = self.softplus(-input, 1, float("inf"))
        if pos_weight is not None:
            soft = self.mul(soft, (pos_weight - 1) * target + 1)
        losses = self.add(self.mul(1 - target, input), soft)
        return self._over_batch(losses, reduction, weight)

    def kl_div(
        self,
        input: Tensor,
        target: Tensor,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
        log_target: bool = False,
    ) -> Tensor:
        """t·(log t - x), 0 where t is 0; "batchmean" is the sum by the length of the batch."""
        reduction = reduction_of(reduction, size_average, reduce, "batchmean")
        if log_target:
            losses = self.mul(self.exp(target), self.sub(target, input))
        else:
            logarithm = self.log(torch.where(target == 0, 1.0, target))
            losses = self.mul(target, self.sub(logarithm, input))
        if reduction == "batchmean":
            return self.div(self.sum(losses), input.shape[0] if input.ndim else 1)
        return self._over_batch(losses, reduction)


def reduction_of(
    reduction: str, size_average: bool | None = None, reduce: bool | None = None, *more: str
) -> str:
    """The reduction, also by the deprecated arguments that PyTorch still takes.

    ValueError for a name that is none.
    """
    if size_average is not None or reduce is not None:
        if reduce is False:
            return "none"
        return "sum" if size_average is False else "mean"
    if reduction not in (known := ("none", "mean", "sum", *more)):
        raise ValueError(f"reduction must be one of {', '.join(known)}, got {reduction!r}")
    return reduction
