"""A function of PyTorch for tests that look at its backward."""

from __future__ import annotations

from typing import Any

import torch


class Copied(torch.autograd.Function):
    """A copy of its argument; subclasses say what its backward does."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()
