"""Delayed scaling: operands that are rounded under scales of the steps before."""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn

import qemu_swalp
from qemu_swalp import RandomBits
from qemu_swalp.training.delayed import FLOAT32_MAX, Delayed

from .._compat import backward_id, ddp_joins, groups_of_ddp, groups_of_fsdp
from ..tensors.call_counters import BITS
from ..tensors.custom_ops import (
    Rule,
    as_loss_scaling_needs,
    is_traced,
    known_step,
    parsed,
    signed,
    step_tensor,
    unsigned,
)
from ..tensors.observers import Label, observe

REMEMBERED = 64
"""Calls whose scales are kept for their backward and for recomputations."""


class Scaling(NamedTuple):
    """Which scale an operand has at one call: by what rule, in which state of whose `Scales`."""

    delayed: str
    owner: int
    name: str
    step: int | Tensor

    def for_sample(self, i: int) -> Scaling:
        """RuntimeError: samples of `torch.vmap` have no scales of their own."""
        raise RuntimeError(
            "delayed scaling has one scale for all samples, which torch.vmap takes one by one; use"
            " scales of present numbers, as 'fp8_hybrid' has"
        )


class State:
    """The scale of an operand and the history that it follows from."""

    def __init__(self, delayed: Delayed) -> None:
        self.delayed = delayed
        self.history = torch.zeros(delayed.history, device="cpu")
        self.scale = torch.ones((), device="cpu")
        self.used: dict[int, Tensor] = {}

    def scale_at(self, step: int, x: Tensor, greatest: float, groups: Sequence[Any]) -> Tensor:
        """The scale of a call. When a call in training first asks, x enters the history, with what
        the other ranks of the groups have.
        """
        if step not in self.used:
            self.history, self.scale = self.history.to(x.device), self.scale.to(x.device)
            self.used[step] = self.scale
            if step >> BITS == 0:
                self._move_on(x, greatest, groups)
            if len(self.used) > REMEMBERED:
                del self.used[next(iter(self.used))]
        return self.used[step]

    def _move_on(self, x: Tensor, greatest: float, groups: Sequence[Any]) -> None:
        before = self._amax()
        found = x.detach().abs().max() if x.numel() else x.new_zeros(())
        for group in groups:
            distributed.all_reduce(found, distributed.ReduceOp.MAX, group)
        self.history = self.history.roll(1)
        self.history[0] = found
        amax = before if self.delayed.lag else self._amax()
        # PyTorch takes number / tensor for the reciprocal times the number, which rounds twice.
        factor = torch.full_like(amax, greatest) / amax / 2.0**self.delayed.margin
        fits = (amax > 0) & amax.isfinite()
        factor = torch.where(fits, factor, self.scale.reciprocal())
        self.scale = factor.clamp(max=FLOAT32_MAX).reciprocal()

    def _amax(self) -> Tensor:
        return self.history[0] if self.delayed.amax == "most_recent" else self.history.max()

    def record(self) -> dict[str, Any]:
        """Plain numbers, from which `restore` goes on."""
        history = self.history.tolist()
        while history and not history[-1]:
            history.pop()
        return {"scale": self.scale.item(), "history": history}

    def restore(self, record: Mapping[str, Any]) -> None:
        """Inverse of `record`."""
        self.scale = torch.tensor(float(record["scale"]), device="cpu")
        self.history = torch.zeros(self.delayed.history, device="cpu")
        kept = torch.tensor(record["history"], device="cpu")
        self.history[: len(kept)] = kept
        self.used = {}


OWNERS: weakref.WeakValueDictionary[int, Scales] = weakref.WeakValueDictionary()
_NUMBERS = count()


class Scales:
    """The scales of all operands of a module. Its number finds it again from a compiled graph."""

    def __init__(self) -> None:
        self.states: dict[str, State] = {}
        self.groups: list[Any] = []
        """Process groups whose ranks share the scales, as found in the last forward."""
        self._enter()

    def _enter(self) -> None:
        self.number = next(_NUMBERS)
        OWNERS[self.number] = self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "groups": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._enter()

    def share(self, modules: Iterable[nn.Module]) -> None:
        """Take note of the groups of the modules that are being called, outermost first."""
        found = (groups_of_fsdp(module) for module in modules)
        self.groups = next((groups for groups in found if groups), [])

    def at(self, scaling: Scaling, x: Tensor, greatest: float) -> Tensor:
        """The scale of an operand at a call."""
        if isinstance(scaling.step, Tensor):
            raise RuntimeError(
                "delayed scaling reads the number of the call on the host; do not call the handle's"
                " count_on(device), or use scales of present numbers, as 'fp8_hybrid' has"
            )
        delayed = _parsed(scaling.delayed)
        state = self.states.setdefault(scaling.name, State(delayed))
        if backward_id() == -1:
            self.groups = groups_of_ddp() or self.groups
            if ddp_joins():
                raise RuntimeError(
                    "delayed scaling shares the history of its scales among all ranks at each"
                    " product, which a rank without inputs would leave waiting within"
                    " DistributedDataParallel.join(); give all ranks as many batches"
                    " (drop_last=True), or take scales of present numbers, as 'fp8_hybrid' has"
                )
        return state.scale_at(scaling.step, x, greatest, self.groups)

    def record(self) -> dict[str, Any]:
        """Plain numbers for a checkpoint."""
        return {name: state.record() for name, state in self.states.items()}

    def restore(self, record: Mapping[str, Any], rules: Mapping[str, Delayed]) -> None:
        """Inverse of `record`; `rules` by the place of an operand, with which a name begins."""
        self.states = {}
        for name, entry in record.items():
            self.states[name] = State(rules[re.split("[./]", name)[0]])
            self.states[name].restore(entry)


def scaled(x: Tensor, rule: Rule, scaling: Scaling) -> Tensor:
    """x rounded by the rule under the scale of the call; without gradient."""
    if is_traced():
        numbers = (signed(rule.seed), signed(rule.stream), step_tensor(rule))
        call = step_tensor(rule._replace(step=scaling.step))
        state = (scaling.delayed, scaling.owner, scaling.name, call)
        traced: Tensor = _scale(x, rule.quantizer, *numbers, *state, rule.site, rule.role)
        return traced
    quantizer, x = parsed(rule.quantizer), x.detach()
    block: Any = quantizer.format
    scale = OWNERS[scaling.owner].at(scaling, x, block.element.max)
    random = None
    if quantizer.rounding.stochastic:
        random = RandomBits(rule.seed, rule.stream, rule.step, rule.offset)
    observe(Label(rule.site, rule.role), x, quantizer, random, scale)
    y: Tensor = qemu_swalp.quantize(x, block, quantizer.rounding, random=random, scales=scale)
    return as_loss_scaling_needs(y, rule.role, lambda: x)


@lru_cache(maxsize=64)
def _parsed(text: str) -> Delayed:
    return Delayed.parse(text)


@torch.library.custom_op("qemu_swalp::scale", mutates_args=())
def _scale(
    x: Tensor,
    quantizer: str,
    seed: int,
    stream: int,
    step: Tensor,
    delayed: str,
    owner: int,
    name: str,
    call: Tensor,
    site: str,
    role: str,
) -> Tensor:
    rule = Rule(quantizer, unsigned(seed), unsigned(stream), known_step(step), site=site, role=role)
    y = scaled(x, rule, Scaling(delayed, owner, name, known_step(call)))
    return y.clone(memory_format=torch.contiguous_format)


@_scale.register_fake
def _(
    x: Tensor,
    quantizer: str,
    seed: int,
    stream: int,
    step: Tensor,
    delayed: str,
    owner: int,
    name: str,
    call: Tensor,
    site: str,
    role: str,
) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)
