"""Steps that are none: those without gradients, as schedulers ask for before their first step, and
those that `torch.distributed.checkpoint` makes to have an optimizer show its state.

Where an optimizer has no state yet, `get_optimizer_state_dict` and `set_optimizer_state_dict` call
`step` with zero gradients at a rate of 0. Nothing is counted, rounded or averaged in such a step.
The state that it leaves is a placeholder: optimizers take their first step otherwise if there is
one (Adam counts it, SGD dampens the gradient, and weight decay is in the momentum already), so that
the first true step begins without it. The param_groups tell whether it is one, in checkpoints too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from qemu_swalp.interop.torch import is_dtensor

from .._compat import step_without_hooks
from ..tensors.custom_ops import is_capturing
from .param_groups import ACCUMULATOR, PLACEHOLDERS, STEP, is_configured
from .param_plan import Entry


def is_no_step(optimizer: Optimizer, args: tuple[Any, ...] = (), kwargs: Any = None) -> bool:
    """Whether the step that begins with these arguments, or none, cannot change a weight: it has no
    closure, and there are no gradients, or all of them and all rates are 0.
    """
    if is_capturing() or any(x is not None for x in (*args[1:], *(kwargs or {}).values())):
        return False
    if not has_gradients(optimizer):
        return True
    groups = optimizer.param_groups
    return all("lr" in group and _is_zero_rate(group) for group in groups) and are_zero(
        p.grad for group in groups for p in group["params"] if isinstance(p.grad, Tensor)
    )


def has_gradients(optimizer: Optimizer) -> bool:
    """Whether there is a gradient for any parameter."""
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])


def note_placeholders(optimizer: Optimizer, had_state: bool) -> None:
    """After a step that was none: what state there is now and was not before is of that step."""
    if optimizer.state and not had_state:
        for group in optimizer.param_groups:
            group[PLACEHOLDERS] = True


def drop_placeholders(optimizer: Optimizer) -> None:
    """Before a true step: forget state that a step which was none has left."""
    groups = optimizer.param_groups
    if groups[0].get(PLACEHOLDERS):
        optimizer.state.clear()
        for group in groups:
            group[PLACEHOLDERS] = False


def has_placeholders(optimizer: Optimizer) -> bool:
    """Whether all state of an optimizer of PyTorch is what a step that is none leaves, which is
    tried on copies of the weights: of optimizers that are not quantized no mark tells.
    """
    if not _may_have_placeholders(optimizer):
        return False
    twins = {p: p.detach().clone() for group in optimizer.param_groups for p in group["params"]}
    for p, twin in twins.items():
        twin.grad = torch.zeros_like(twin) if p.requires_grad else None
    trial = object.__new__(type(optimizer))
    trial.__dict__.update(optimizer.__dict__)
    trial.state = defaultdict(dict)
    trial.param_groups = [
        {
            **group,
            "params": [twins[p] for p in group["params"]],
            "lr": torch.zeros_like(group["lr"]) if isinstance(group["lr"], Tensor) else 0.0,
        }
        for group in optimizer.param_groups
    ]
    step_without_hooks(trial)
    left = {p: trial.state[twin] for p, twin in twins.items() if twin in trial.state}
    return _same_state(optimizer.state, left)


def _may_have_placeholders(optimizer: Optimizer) -> bool:
    """Of PyTorch's own optimizers, those that have counted one step at most; quantized ones have
    their mark.
    """
    steps = [state["step"] for state in optimizer.state.values() if "step" in state]
    return bool(
        optimizer.state
        and not is_configured(optimizer.param_groups)
        and not is_capturing()
        and type(optimizer).__module__.startswith("torch.optim.")
        and not isinstance(optimizer, torch.optim.LBFGS | torch.optim.SparseAdam)
        and all("lr" in group for group in optimizer.param_groups)
        and all(float(step) <= 1 for step in steps)
    )


def _same_state(a: Mapping[Any, Any], b: Mapping[Any, Any]) -> bool:
    return set(a) == set(b) and all(
        set(a[p]) == set(b[p]) and all(_same(x, b[p][key]) for key, x in a[p].items()) for p in a
    )


def _same(a: Any, b: Any) -> bool:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return type(a) is type(b) and bool(a == b)
    return a.shape == b.shape and are_zero([(a != b).to(torch.uint8)])


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
