"""Autograd, its recomputations and the transforms of torch.func."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import graph
from torch.autograd.function import BackwardCFunction
from torch.nn.modules import module as nn_module
from torch.utils import checkpoint
from torch.utils.hooks import BackwardHook


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


def outside_transforms() -> AbstractContextManager[object]:
    """Within it no transform of `torch.func` sees what is computed, nor refuses changes in place of
    tensors that are no arguments of the function.
    """
    return torch._C._DisableFuncTorch() if transforms_are_active() else nullcontext()


def is_transformed(x: Tensor) -> bool:
    """Whether a tensor stands for others in a transform of `torch.func`."""
    return torch._C._functorch.is_functorch_wrapped_tensor(x)


def replace_backward(replaced: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """From now on each backward that begins in Python, as `Tensor.backward` and
    `torch.autograd.grad` do, calls `replaced(run)` in place of `run`.
    """
    run = replaced(graph._engine_run_backward)
    for module in (graph, torch.autograd):
        module._engine_run_backward = run  # type: ignore[attr-defined]


def next_node_number() -> int:
    """The number of the node that autograd makes next in this thread; numbers only grow."""
    return torch._C._autograd._get_sequence_nr()


def running_node() -> Any:
    """The node whose backward, or a hook on it, runs in this thread; None where none does."""
    return torch._C._current_autograd_node()


def node_number(node: Any) -> int:
    """The number of a node; of those that add up the gradient of a leaf the largest there is."""
    return int(node._sequence_nr())


def function_running_in(frame: FrameType) -> type | None:
    """The autograd Function whose backward is called by a Python frame, if it is one that does."""
    if frame.f_code is not BackwardCFunction.apply.__code__:
        return None
    kind: type = frame.f_locals["self"]._forward_cls
    return kind


def module_hooked_in(frame: FrameType) -> nn.Module | None:
    """The module whose full backward hook is called by a Python frame, if it is one that does."""
    if frame.f_code.co_filename != BackwardHook.__init__.__code__.co_filename:
        return None
    hook = frame.f_locals.get("self")
    return hook.module if isinstance(hook, BackwardHook) else None


def backward_hooks(model: nn.Module) -> Iterator[int]:
    """Ids of the hooks on the backward of the modules of a model, on its parameters, and on all
    modules.
    """
    yield from (*nn_module._global_backward_hooks, *nn_module._global_backward_pre_hooks)
    for module in model.modules():
        yield from (*module._backward_hooks, *module._backward_pre_hooks)
    for parameter in model.parameters():
        yield from parameter_hooks(parameter)


def parameter_hooks(parameter: Any) -> Iterator[int]:
    """Ids of the hooks on the gradient of a parameter."""
    for found in (parameter._backward_hooks, parameter._post_accumulate_grad_hooks):
        yield from found or ()
