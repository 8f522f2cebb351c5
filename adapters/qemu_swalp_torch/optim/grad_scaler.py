"""What `torch.amp.GradScaler` leaves to a fused optimizer: to unscale, and to skip a step."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from .param_groups import counts_on_device


def step_is_skipped(optimizer: Optimizer) -> bool:
    """Whether the scaler saw infinite gradients, so that a fused step does nothing."""
    infinite: Tensor | None = getattr(optimizer, "found_inf", None)
    return infinite is not None and float(infinite) > 0


def skips(optimizer: Optimizer) -> bool | Tensor:
    """`step_is_skipped`, on the device where the optimizer's steps are counted there."""
    if not counts_on_device(optimizer.param_groups):
        return step_is_skipped(optimizer)
    infinite: Tensor | None = getattr(optimizer, "found_inf", None)
    return False if infinite is None else infinite.reshape(()) > 0


@torch.no_grad()
def unscale(optimizer: Optimizer) -> None:
    """Divide all gradients by the scale, so that the fused step has nothing to unscale."""
    scale: Tensor | None = getattr(optimizer, "grad_scale", None)
    if scale is None:
        return
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None:
                p.grad.div_(scale.to(p.grad.device))
    optimizer.grad_scale = None  # type: ignore[attr-defined]
