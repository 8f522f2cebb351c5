"""Optimizers: their hooks, and what their copies lack."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle


def has_step_hooks(optimizer: Optimizer) -> bool:
    """Whether an optimizer has hooks around its step: not one whose class left out
    `Optimizer.__init__`.
    """
    return "_optimizer_step_post_hooks" in optimizer.__dict__


def run_first_after_step(optimizer: Optimizer, handle: RemovableHandle) -> None:
    """Move a hook to the front of those that run after the optimizer's step."""
    optimizer._optimizer_step_post_hooks.move_to_end(handle.id, last=False)  # type: ignore[attr-defined]


def run_first_before_step(optimizer: Optimizer, handle: RemovableHandle) -> None:
    """Move a hook to the front of those that run before the optimizer's step."""
    optimizer._optimizer_step_pre_hooks.move_to_end(handle.id, last=False)  # type: ignore[attr-defined]


def step_without_hooks(optimizer: Optimizer) -> None:
    """Make a step of which no hook is told, those of all optimizers included."""
    step: Any = type(optimizer).step
    with torch.no_grad():
        getattr(step, "__wrapped__", step)(optimizer)


def keep_step_hooks(optimizer: Optimizer, handles: Iterable[RemovableHandle]) -> None:
    """Give a shallow copy of an optimizer these of its step hooks alone; the original keeps all."""
    ids = {handle.id for handle in handles}
    for name in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):
        hooks = getattr(optimizer, name)
        setattr(optimizer, name, OrderedDict((i, hook) for i, hook in hooks.items() if i in ids))


def complete_lbfgs(optimizer: Optimizer) -> None:
    """Give a copy of LBFGS the attributes that PyTorch's copies lack and its step reads."""
    if isinstance(optimizer, torch.optim.LBFGS) and not hasattr(optimizer, "_params"):
        optimizer._params, optimizer._numel_cache = optimizer.param_groups[0]["params"], None
