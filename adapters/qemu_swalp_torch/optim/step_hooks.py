"""What happens around `optimizer.step`: gradients are rounded before the update, state and weights
after it.

Rounding the momentum right after the step is SWALP's algorithm 2: v_t = ρ·Q_M(v_{t-1}) + g_t uses
it only then.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from qemu_swalp import RandomBits
from qemu_swalp.interop.torch import untraced
from qemu_swalp.training import Quantizer, TensorRandomBits

from .._compat import run_first_after_step
from ..tensors.arrays import random_for, round_all, rounded_for
from ..tensors.custom_ops import refuse_capture
from .closure import Closure, grad_mode
from .float32_step import Float32Step
from .grad_scaler import skips, unscale
from .load_guard import LoadGuard
from .no_step import (
    drop_placeholders,
    has_gradients,
    is_no_step,
    note_placeholders,
    show_accumulators,
)
from .param_groups import ACCUMULATOR, advance, counts_on_device
from .param_plan import (
    Entry,
    Plan,
    check_accumulator,
    check_dense,
    check_states,
    needs_float32,
    state_tensors,
)
from .schedule_free import check_step
from .shown_weights import ShownWeights
from .state_names import warn_of_unknown_state
from .wrappers import inner_optimizers, state_with

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class StepHooks:
    """The hooks of one optimizer. All that must outlive a copy or a checkpoint is in its
    param_groups and state.
    """

    def __init__(self, allow_recipe_change: bool = False) -> None:
        self.handles: list[RemovableHandle] = []
        self.plan, self.shown = Plan(), ShownWeights()
        self.guard = LoadGuard(self.shown, allow_recipe_change)
        self.entries: list[Entry] = []
        """What is rounded; during a step in float32 with the stand-in's parameters."""
        self.updated: list[Entry] = []
        """Those of them that had a gradient when the present step or update began."""
        self.float32: Float32Step | None = None
        """The present step, if it computes in float32."""
        self.last_float32: Float32Step | None = None
        self.armed = self.names_checked = False
        self.holders: list[Optimizer] = []
        """Who keeps state in the present step: the optimizer, and those that it wraps."""
        self.is_none = False
        """Whether the present step changes nothing, and is not to be counted."""
        self.had_state = False
        """Whether the optimizer had state when the present step began."""
        self.skipped: bool | Tensor = False
        """Whether the present step does nothing; on the device, unread, where the optimizer is
        capturable.
        """
        self.waiting: list[tuple[Tensor, Quantizer, RandomBits | None]] = []
        """What is yet to be rounded in place, all in one call."""

    def register(self, optimizer: Optimizer) -> None:
        after = optimizer.register_step_post_hook(self.after_step)
        # First, so that whatever else runs after the step (an Averager, logging) sees rounded
        # weights.
        run_first_after_step(optimizer, after)
        self.handles = [
            optimizer.register_step_pre_hook(self.before_step),
            after,
            *self.guard.register(optimizer),
        ]

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()

    def refresh(self, optimizer: Optimizer) -> None:
        """Take note of the parameters that are to be rounded."""
        self.entries = [entry for entry in self.plan.refresh(optimizer) if entry.rounded]
        if optimizer.defaults.get("differentiable"):
            for entry in filter(needs_float32, self.entries):
                raise ValueError(
                    f"{entry.label} is stored in {entry.parameter.dtype}, and a step with"
                    " differentiable=True cannot be computed in float32 and rounded once; convert"
                    " the model to float32, or use qemu_swalp_torch.SGD"
                )

    @untraced
    def before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Arguments | None:
        if not self._is_stand_in(optimizer):
            self.float32 = None
            self.refresh(optimizer)
        if not counts_on_device(optimizer.param_groups):
            refuse_capture("a quantized step", "quantize the optimizer with capturable=True")
        self.armed, self.skipped, self.waiting = True, False, []
        check_step(optimizer)
        if self.float32 is None:
            self.is_none = is_no_step(optimizer, args, kwargs)
            self.had_state = bool(optimizer.state)
            if self.is_none:
                return None
            drop_placeholders(optimizer)
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if isinstance(closure, Closure):  # a subclass's step calls super().step
            return None
        if self.float32 is None and (wide := self._computed_in_float32(closure is not None)):
            self.float32 = self._float32_step(optimizer, wide)
            self.entries = [self.float32.entry(entry) for entry in self.entries]
            optimizer = self.float32.stand_in
            args = (optimizer, *args[1:])
        self.updated = [entry for entry in self.entries if entry.parameter.grad is not None]
        if closure is None:
            self.before_update(optimizer, 0)
            return args, kwargs
        closure = Closure(self, optimizer, closure)
        if len(args) > 1:
            return (args[0], closure, *args[2:]), kwargs
        return args, {**kwargs, "closure": closure}

    def _computed_in_float32(self, has_closure: bool) -> list[Entry]:
        """Those whose 16-bit weights or state are rounded; without gradient nothing happens."""
        return [
            entry
            for entry in self.entries
            if needs_float32(entry) and (has_closure or entry.parameter.grad is not None)
        ]

    def _float32_step(self, optimizer: Optimizer, entries: list[Entry]) -> Float32Step:
        if self.last_float32 is None or not self.last_float32.fits(entries):
            self.last_float32 = Float32Step(optimizer, entries)
        self.last_float32.begin(self.handles)
        return self.last_float32

    def _is_stand_in(self, optimizer: Optimizer) -> bool:
        """Whether this is the inner one of two nested steps, made by the stand-in of the outer."""
        return self.float32 is not None and optimizer is self.float32.stand_in

    def before_update(self, optimizer: Optimizer, evaluation: int) -> None:
        """Round the gradients of the closure's call of that number; put accumulators in place of
        weights.
        """
        self.skipped = not has_gradients(optimizer) or skips(optimizer)
        if self.skipped is True:
            return
        ready = [(entry, g) for entry in self.entries if (g := entry.parameter.grad) is not None]
        self.updated = [entry for entry, _ in ready]
        for entry, g in ready:
            check_dense(g, entry.label)
            accumulator = optimizer.state.get(entry.parameter, {}).get(ACCUMULATOR)
            if accumulator is not None:
                check_accumulator(entry, accumulator)
        if any(entry.recipe.gradient is not None for entry, _ in ready):
            unscale(optimizer)
        with grad_mode(optimizer):
            for entry, g in ready:
                if entry.recipe.gradient is not None:
                    role = _numbered("gradient", evaluation)
                    value = self.rounded(g, entry.recipe.gradient, entry.draw(optimizer), role)
                    if value is not g:
                        entry.parameter.grad = value
                if entry.recipe.accumulator is not None:
                    accumulator = optimizer.state.get(entry.parameter, {}).get(ACCUMULATOR)
                    if accumulator is not None:
                        if evaluation == 0:
                            self.shown.adopt(optimizer, entry, accumulator, self.write)
                        self.write(entry.parameter, accumulator)
        self.round_waiting()

    @torch.no_grad()
    def before_evaluation(self, optimizer: Optimizer, evaluation: int) -> None:
        """Round the weights that an optimizer has moved since the last call of the closure, as
        LBFGS does.
        """
        for entry in self.entries:
            if entry.parameter.grad is None:
                continue
            if entry.recipe.accumulator is not None:
                self._keep(optimizer, entry.parameter)
            if entry.recipe.weight is not None:
                draw = entry.draw(optimizer)
                self._round(
                    entry.parameter, entry.recipe.weight, draw, _numbered("weight", evaluation)
                )

    @untraced
    def after_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if self.is_none:
            show_accumulators(optimizer, self.entries)
            note_placeholders(optimizer, self.had_state)
            return
        float32 = None if self._is_stand_in(optimizer) else self.float32
        if self.skipped is True:
            self._end(float32)
            return
        stepped = optimizer if float32 is None else float32.stand_in
        # Not armed: the outer of two nested steps (a subclass's step calls super().step). What the
        # inner one rounded is exact now and stays; what the subclass changed since is rounded.
        # Accumulators are as the inner one left them.
        self.holders = [stepped, *inner_optimizers(stepped).values()]
        for entry in self.updated:
            check_states(self.holders, entry)
        with grad_mode(optimizer):
            for entry in self.updated:
                if self.armed or entry.recipe.accumulator is None:
                    self._round_updated(stepped, entry)
        self.round_waiting()
        self.armed = False
        if float32 is not None:
            float32.store(e.parameter for e in self.updated if e.recipe.gradient is not None)
        self._end(float32)
        if not self._is_stand_in(optimizer):
            self.shown.note(optimizer, self.entries)
        advance(optimizer.param_groups, self.skipped)
        if not self.names_checked:
            self.names_checked = True
            warn_of_unknown_state(optimizer, self.entries)

    def _end(self, float32: Float32Step | None) -> None:
        if float32 is not None:
            self.float32, self.updated = None, []
            self.entries = [entry for entry in self.plan.entries if entry.rounded]
            float32.end()

    def _round_updated(self, optimizer: Optimizer, entry: Entry) -> None:
        p, recipe, draw = entry.parameter, entry.recipe, entry.draw(optimizer)
        for key, role, quantizer in entry.states:
            state = state_with(self.holders, p, key)
            for suffix, tensor in state_tensors(state.get(key)):
                value = self.rounded(tensor, quantizer, draw, role + suffix)
                if value is not tensor:
                    state[key] = value
        if recipe.accumulator is not None:
            self._round(p, recipe.accumulator, draw, "accumulator")
            self._keep(optimizer, p)
        if recipe.weight is not None:
            self._round(p, recipe.weight, draw, "weight", waits=True)

    def _round(
        self,
        p: Tensor,
        quantizer: Quantizer,
        draw: TensorRandomBits,
        role: str,
        waits: bool = False,
    ) -> None:
        """Round p in place; waits : at `round_waiting`, where it can wait. In steps that count on a
        device nothing does: a warm-up then compiles what the capture of a CUDA graph needs.
        """
        if waits and self._waits() and isinstance(draw.step, int):
            self.waiting.append((p, quantizer, random_for(quantizer, draw, role)))
        else:
            self.write(p, rounded_for(p, quantizer, draw, role))

    def _waits(self) -> bool:
        return not torch.is_grad_enabled() and not isinstance(self.skipped, Tensor)

    def round_waiting(self) -> None:
        """Round what waits."""
        waiting, self.waiting = self.waiting, []
        round_all(waiting)

    def write(self, x: Tensor, value: Tensor) -> None:
        """x becomes the value in place, unless the step is skipped."""
        x.copy_(torch.where(self.skipped, x, value) if isinstance(self.skipped, Tensor) else value)

    def rounded(self, x: Tensor, quantizer: Quantizer, draw: TensorRandomBits, role: str) -> Tensor:
        """x, which will be rounded in place; in a differentiable step the rounded value, since the
        graph may need x.
        """
        if torch.is_grad_enabled():
            return rounded_for(x, quantizer, draw, role)
        self._round(x, quantizer, draw, role, waits=True)
        return x

    def _keep(self, optimizer: Optimizer, p: Tensor) -> None:
        """Store p's present value as its accumulator."""
        state = optimizer.state[p]
        if ACCUMULATOR in state:
            self.write(state[ACCUMULATOR], p)
        else:
            state[ACCUMULATOR] = p.clone()


def _numbered(role: str, evaluation: int) -> str:
    return f"{role}.{evaluation}" if evaluation else role
