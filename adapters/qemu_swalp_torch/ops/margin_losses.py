"""Distances, losses made of them and of likelihoods, each elementwise operation rounded; arguments
are those of PyTorch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .losses import Losses, reduction_of


class MarginLosses(Losses):
    """Distances, and losses that compare them with a margin."""

    def cosine_similarity(self, x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
        """Σ x1/max(‖x1‖, ε)·x2/max(‖x2‖, ε)."""
        x1, x2 = torch.broadcast_tensors(x1, x2)  # type: ignore[no-untyped-call]
        units = [self.div(x, _at_least(eps, self.norm(x, 2, dim, True))) for x in (x1, x2)]
        return self.sum(self.mul(*units), dim)

    def pairwise_distance(
        self, x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
    ) -> Tensor:
        """‖x1 - x2 + ε‖ along the last axis."""
        return self.norm(self.add(self.sub(x1, x2), eps), p, -1, keepdim)

    def dist(self, x: Tensor, y: Tensor, p: float = 2) -> Tensor:
        return self.norm(self.sub(x, y), p)

    def margin_ranking_loss(
        self,
        input1: Tensor,
        input2: Tensor,
        target: Tensor,
        margin: float = 0,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
    ) -> Tensor:
        """max(0, margin - y·(x1 - x2))."""
        ranked = self.mul(-target, self.sub(input1, input2))
        losses = self.add(ranked, margin).clamp_min(0)
        return self._over_batch(losses, reduction_of(reduction, size_average, reduce))

    def hinge_embedding_loss(
        self,
        input: Tensor,
        target: Tensor,
        margin: float = 1.0,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
    ) -> Tensor:
        """x where y is 1, max(0, margin - x) where it is -1."""
        near = torch.where(target == -1, 0.0, input)
        far = torch.where(target == 1, 0.0, self.sub(margin, input).clamp_min(0))
        return self._over_batch(self.add(far, near), reduction_of(reduction, size_average, reduce))

    def cosine_embedding_loss(
        self,
        input1: Tensor,
        input2: Tensor,
        target: Tensor,
        margin: float = 0,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
    ) -> Tensor:
        """1 - cos where y is 1, max(0, cos - margin) where it is -1; squared lengths are at least
        1e-12.
        """
        product = self.sum(self.mul(input1, input2), -1)
        squares = [self.add(self.sum(self.square(x), -1), 1e-12) for x in (input1, input2)]
        cosine = self.div(product, self.sqrt(self.mul(*squares)))
        near = torch.where(target == 1, self.sub(1.0, cosine), 0.0)
        far = torch.where(target == -1, self.sub(cosine, margin).clamp_min(0), 0.0)
        return self._over_batch(self.add(near, far), reduction_of(reduction, size_average, reduce))

    def triplet_margin_loss(
        self,
        anchor: Tensor,
        positive: Tensor,
        negative: Tensor,
        margin: float = 1.0,
        p: float = 2,
        eps: float = 1e-6,
        swap: bool = False,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
    ) -> Tensor:
        """max(0, margin + d(a, p) - d(a, n)), with the lesser of d(a, n) and d(p, n) if `swap`."""
        near = self.pairwise_distance(anchor, positive, p, eps)
        far = self.pairwise_distance(anchor, negative, p, eps)
        if swap:
            far = torch.minimum(far, self.pairwise_distance(positive, negative, p, eps))
        losses = self.sub(self.add(near, margin), far).clamp_min(0)
        return self._over_batch(losses, reduction_of(reduction, size_average, reduce))

    def soft_margin_loss(
        self,
        input: Tensor,
        target: Tensor,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
    ) -> Tensor:
        """log(1 + exp(-y·x))."""
        losses = self.softplus(self.mul(-target, input), 1, math.inf)
        return self._over_batch(losses, reduction_of(reduction, size_average, reduce))

    def multilabel_soft_margin_loss(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
    ) -> Tensor:
        """Mean over the classes, the last axis, of binary cross entropies."""
        losses = self.binary_cross_entropy_with_logits(input, target, weight, reduction="none")
        return self._over_batch(
            self.mean(losses, -1), reduction_of(reduction, size_average, reduce)
        )

    def multi_margin_loss(
        self,
        input: Tensor,
        target: Tensor,
        p: int = 1,
        margin: float = 1.0,
        weight: Tensor | None = None,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
    ) -> Tensor:
        """Σ w·max(0, margin - x_y + x_j)^p over the classes j but y, by their number."""
        index = target.reshape(*input.shape[:-1], 1)
        terms = self.add(self.sub(margin, input.gather(-1, index)), input).clamp_min(0)
        terms = self.pow(terms, p)
        if weight is not None:
            terms = self.mul(terms, weight[index])
        losses = self.mean(terms.scatter(-1, index, 0.0), -1)
        return self._over_batch(losses, reduction_of(reduction, size_average, reduce))

    def gaussian_nll_loss(
        self,
        input: Tensor,
        target: Tensor,
        var: Tensor | float,
        full: bool = False,
        eps: float = 1e-6,
        reduction: str = "mean",
    ) -> Tensor:
        """(log σ² + (x - t)²/σ²)/2, where σ² is at least ε."""
        var = var if isinstance(var, Tensor) else input.new_full((), var)
        if var.shape == input.shape[:-1]:
            var = var.unsqueeze(-1)
        if (var < 0).any():
            raise ValueError("var has negative entry/entries")
        var = _at_least(eps, var)
        square = self.square(self.sub(input, target))
        losses = self.mul(self.add(self.log(var), self.div(square, var)), 0.5)
        if full:
            losses = self.add(losses, math.log(2 * math.pi) / 2)
        return self._over_batch(losses, reduction_of(reduction))

    def poisson_nll_loss(
        self,
        input: Tensor,
        target: Tensor,
        log_input: bool = True,
        full: bool = False,
        size_average: Any = None,
        eps: float = 1e-8,
        reduce: Any = None,
        reduction: str = "mean",
    ) -> Tensor:
        """exp(x) - t·x, or x - t·log(x + ε); `full` adds Stirling's formula where t > 1."""
        if log_input:
            losses = self.sub(self.exp(input), self.mul(target, input))
        else:
            losses = self.sub(input, self.mul(target, self.log(self.add(input, eps))))
        if full:
            t = target.clamp_min(1)
            whole = self.sub(self.mul(t, self.log(t)), t)
            stirling = self.add(whole, self.mul(self.log(self.mul(t, 2 * math.pi)), 0.5))
            losses = self.add(losses, torch.where(target > 1, stirling, 0.0))
        return self._over_batch(losses, reduction_of(reduction, size_average, reduce))


def _at_least(eps: float, x: Tensor) -> Tensor:
    """max(x, ε) with the gradient of x, as PyTorch has it where it clamps without gradients."""
    return x.detach().clamp_min(eps) + (x - x.detach())
