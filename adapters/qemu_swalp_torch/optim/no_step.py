"""Steps that are none, as `torch.distributed.checkpoint` makes to have an optimizer show its state.

Where an optimizer has no state yet, `get_optimizer_state_dict` and `set_optimizer_state_dict` call
`step` with zero gradients at a rate of 0. Nothing is counted, rounded or averaged in such a step.
The state that it leaves is a placeholder: some optimizers take their first step otherwise if there
is one (Adam counts it, SGD dampens the gradient), so that the first true step begins without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from qemu_swalp.interop.torch import is_dtensor

from ..tensors.custom_ops import is_capturing
from .float32_step import COUNTERS
from .param_groups import ACCUMULATOR, STEP, counts_on_device
from .param_plan import Entry


def is_no_step(optimizer: Optimizer, args: tuple[Any, ...] = (), kwargs: Any = None) -> bool:
    """Whether the step that begins with these arguments, or none, cannot change a weight: all rates
    are 0, and so are all gradients that there are.
    """
    groups = optimizer.param_groups
    if not all("lr" in group and _is_zero_rate(group) for group in groups):
        return False
    if is_capturing() or any(x is not None for x in (*args[1:], *(kwargs or {}).values())):
        return False
    return are_zero(
        p.grad for group in groups for p in group["params"] if isinstance(p.grad, Tensor)
    )


def drop_placeholders(optimizer: Optimizer) -> None:
    """Before a true step that is the first: forget state that steps which were none have left."""
    groups = optimizer.param_groups
    if counts_on_device(groups) or groups[0][STEP] or not optimizer.state:
        return
    if all(_is_placeholder(p, state) for p, state in optimizer.state.items()):
        optimizer.state.clear()


def show_accumulators(optimizer: Optimizer, entries: Iterable[Entry]) -> None:
    """Placeholders of accumulators: the weights themselves, from which the first step begins."""
    for entry in entries:
        p = entry.parameter
        if entry.recipe.accumulator is not None and p.grad is not None:
            optimizer.state[p].setdefault(ACCUMULATOR, p.detach().clone())


def are_zero(tensors: Iterable[Tensor]) -> bool:
    """Whether all elements of dense tensors are 0; of shards, on all ranks."""
    kept = list(tensors)
    if any(x.layout is not torch.strided for x in kept):
        return False
    found = [(x != 0).any() for x in kept]
    return not any(bool(x.full_tensor() if is_dtensor(x) else x) for x in found)  # type: ignore[attr-defined]


def _is_zero_rate(group: dict[str, Any]) -> bool:
    """Whether a group's rate is 0; not read from a device, where steps are counted, too."""
    lr, counter = group["lr"], group.get(STEP)
    if not isinstance(lr, Tensor):
        return bool(lr == 0)
    on_device = isinstance(counter, Tensor) and counter.device == lr.device
    return lr.is_cpu and not on_device and float(lr.detach()) == 0


def _is_placeholder(p: Any, state: Any) -> bool:
    """Whether state is what a step with zero gradients at a rate of 0 leaves: zeros, or the
    parameter itself, and a count of at most 1.
    """
    return isinstance(state, dict) and all(
        float(value) <= 1 if key == "step" else _holds_nothing(p.detach(), key, value)
        for key, value in state.items()
    )


def _holds_nothing(p: Tensor, key: str, value: Any) -> bool:
    # Rprop sets its step sizes by the rate, which was 0.
    if not isinstance(value, Tensor) or key in COUNTERS or key == "step_size":
        return True
    return are_zero([value]) or (value.shape == p.shape and are_zero([value - p]))
