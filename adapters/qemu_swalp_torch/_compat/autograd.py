"""Autograd, its recomputations and the transforms of torch.func."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import checkpoint


def backward_id() -> int:
    """Number of the backward pass that runs in this thread; -1 outside of any."""
    return torch._C._current_graph_task_id()


def version_of(x: Tensor) -> int:
    """How often a tensor was written in place, as autograd counts."""
    return x._version


def replace_checkpointed(replaced: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """From now on `torch.utils.checkpoint` recomputes `replaced(function)` for each function that
    it is given.
    """
    module: Any = checkpoint
    generator = module._checkpoint_without_reentrant_generator
    forward = module.CheckpointFunction.forward

    @functools.wraps(generator)
    def begin(function: Any, *inputs: Any, **options: Any) -> Any:
        return generator(replaced(function), *inputs, **options)

    @functools.wraps(forward)
    def begin_reentrant(ctx: Any, function: Any, *inputs: Any) -> Any:
        return forward(ctx, replaced(function), *inputs)

    module._checkpoint_without_reentrant_generator = begin
    module.CheckpointFunction.forward = staticmethod(begin_reentrant)


def transforms_are_active() -> bool:
    """Whether a transform of `torch.func` is running."""
    return torch._C._are_functorch_transforms_active()


def is_transformed(x: Tensor) -> bool:
    """Whether a tensor stands for others in a transform of `torch.func`."""
    return torch._C._functorch.is_functorch_wrapped_tensor(x)
