"""SGD on the core's step function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from qemu_swalp._util.checks import check_bool
from qemu_swalp.arrays import Array
from qemu_swalp.interop.torch import settle, tensor_of, untraced, viewed
from qemu_swalp.training import (
    FULL_PRECISION,
    SGD as CoreSGD,
    Hyperparameters,
    Recipe,
    Slots,
    StepInputs,
    as_recipe,
    sgd_step,
    sgd_steps,
)
from qemu_swalp.training.seeds import seed_for

from ..sections import check_section
from ..tensors.custom_ops import refuse_capture
from .closure import grad_mode
from .load_guard import LoadGuard
from .no_step import drop_placeholders, is_no_step, note_placeholders, show_accumulators
from .param_groups import ACCUMULATOR, advance, count_on_device, counts_on_device, write
from .param_plan import (
    Entry,
    Plan,
    check_accumulator,
    check_dense,
    check_overrides,
    is_16bit,
    names_from,
    needs_float32,
)
from .shown_weights import ShownWeights

MOMENTUM = "momentum_buffer"


class SGD(Optimizer):
    """`torch.optim.SGD`'s signature on `qemu_swalp.training.sgd_steps`: the same gradients give the
    core's bits.

    In float32 and float64, weights, momenta and accumulators equal those of
    `qemu_swalp.training.SGD` on NumPy bit for bit. As there, weights are first rounded by the first
    step. Float16 and bfloat16 parameters are updated in float32 and rounded once, with their state,
    if the recipe rounds what is stored. `quantize_optimizer(torch.optim.SGD(...))` makes the same
    update with PyTorch's own arithmetic, which contracts products into sums, and decays the
    accumulator where there is one.

    Parameters
    ----------
    params : tensors or DTensors, (name, tensor) pairs, or param_groups; names are needed for a
        recipe's overrides.
    lr, momentum, dampening, weight_decay, nesterov, maximize : as in `torch.optim.SGD`; per group.
    differentiable : make the step part of the graph, as in `torch.optim.SGD`, with straight-through
        gradients of the roundings; lr may be a tensor that requires one. The first velocity has its
        gradient too.
    foreach, fused : without effect, for calls that are written for `torch.optim.SGD`: the kernels
        take all parameters in one call in any case.
    capturable : count steps on the device and read nothing from it, so that a CUDA graph of the
        step draws fresh random bits at each replay.
    recipe : its roles weight, gradient, momentum and accumulator count here. seed : of the random
        bits, as in `quantize_optimizer`.
    allow_recipe_change : let `load_state_dict` accept checkpoints of another recipe, or of none.

    Raises
    ------
    TypeError, ValueError: if a hyper-parameter is out of range, or if recipe and parameters do not
        fit.
    RuntimeError: at a step, if a gradient is sparse.

    >>> import torch
    >>> from qemu_swalp.training import fixed_point
    >>> w = torch.nn.Parameter(torch.tensor([1.0]))
    >>> opt = SGD([w], lr=0.1, recipe=fixed_point(8, 4))
    >>> (w * w).sum().backward()
    >>> opt.step()
    >>> w.tolist()
    [0.8125]
    """

    quantizes_itself = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        capturable: bool = False,
        recipe: Recipe | str = FULL_PRECISION,
        seed: int | None = None,
        allow_recipe_change: bool = False,
    ) -> None:
        recipe = as_recipe(recipe)
        if recipe != FULL_PRECISION:
            check_section(recipe, "optimizer")
            recipe = recipe.in_section("optimizer")
        for name, value in (("foreach", foreach), ("fused", fused)):
            if value is not None:
                check_bool(name, value)
        check_bool("differentiable", differentiable)
        check_bool("capturable", capturable)
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
                "differentiable": differentiable,
            },
        )
        names = names_from(self.param_groups, None) if recipe.overrides else None
        if names is not None:
            check_overrides(recipe, names, None)
        with seed_for("optimizer", seed) as drawn:
            write(self.param_groups, recipe, drawn, 0, names)
        if capturable:
            count_on_device(self.param_groups)
        self._watch(allow_recipe_change)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in `torch.optim.Optimizer`; its hyper-parameters are checked."""
        _check_hyper({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if (
            "_plan" not in self.__dict__
        ):  # a copy: Optimizer.__getstate__ drops hooks and all else of ours
            self._watch(False)

    def _watch(self, allow_recipe_change: bool) -> None:
        self._plan, self._shown = Plan(), ShownWeights()
        LoadGuard(self._shown, allow_recipe_change).register(self)
        self._plan.refresh(self)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient. Returns the closure's loss, None without
        closure.
        """
        if closure is None and is_no_step(self):
            self._show_state()
            return None
        drop_placeholders(self)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with grad_mode(self):
            self._step()
        return loss

    @torch.no_grad()
    def _show_state(self) -> None:
        """Make placeholders of the state that the first step will make."""
        had_state = bool(self.state)
        entries = self._plan.refresh(self)
        for entry in entries:
            p = entry.parameter
            if p.grad is not None and self.param_groups[entry.group]["momentum"]:
                self.state[p].setdefault(MOMENTUM, torch.zeros_like(p))
        show_accumulators(self, entries)
        note_placeholders(self, had_state)

    @untraced
    def _step(self) -> None:
        ready = [
            (entry, g)
            for entry in self._plan.refresh(self)
            if (g := entry.parameter.grad) is not None
        ]
        if not ready:
            return
        for entry, g in ready:
            check_dense(g, entry.label)
            if ACCUMULATOR in self.state.get(entry.parameter, {}):
                accumulator = self.state[entry.parameter][ACCUMULATOR]
                check_accumulator(entry, accumulator)
                self._shown.adopt(self, entry, accumulator, Tensor.copy_)
        unread = torch.is_grad_enabled() or counts_on_device(self.param_groups)
        if not counts_on_device(self.param_groups):
            refuse_capture("a quantized step", "make the optimizer with capturable=True")
        rates = [
            lr.reshape(()) if isinstance(lr := group["lr"], Tensor) and unread else float(lr)
            for group in self.param_groups
        ]
        hypers = [
            Hyperparameters(
                rate,
                group["momentum"],
                group["dampening"],
                group["weight_decay"],
                group["nesterov"],
                group["maximize"],
            )
            for rate, group in zip(rates, self.param_groups, strict=True)
        ]
        if torch.is_grad_enabled():
            for entry, g in ready:
                self._update_in_graph(entry, g, hypers[entry.group])
        else:
            steps = [self._inputs(entry, g, hypers[entry.group]) for entry, g in ready]
            for (entry, _), step, found in zip(
                ready, steps, sgd_steps(steps, in_place=True), strict=True
            ):
                self._store(entry, step, *found)
        self._shown.note(self, self._plan.entries)
        advance(self.param_groups)

    def _inputs(self, entry: Entry, gradient: Tensor, hyper: Hyperparameters) -> StepInputs:
        state = self.state[entry.parameter]
        weight, gradient = _computed(entry, entry.parameter), _computed(entry, gradient)
        slots = Slots(
            *(
                viewed(_computed(entry, state[key])) if key in state else None
                for key in (MOMENTUM, ACCUMULATOR)
            )
        )
        random, widen = entry.draw(self), _widened if needs_float32(entry) else None
        return StepInputs(
            viewed(weight), viewed(gradient), slots, hyper, entry.recipe, random, widen
        )

    def _store(self, entry: Entry, inputs: StepInputs, weight: Array, slots: Slots) -> None:
        p, state = entry.parameter, self.state[entry.parameter]
        _store_result(entry, p, inputs.weight, weight)
        for key, before, value in zip((MOMENTUM, ACCUMULATOR), inputs.slots, slots, strict=True):
            if value is None:
                continue
            if key in state:
                _store_result(entry, state[key], before, value)
            else:  # a copy, since an unrounded first velocity is the gradient itself
                state[key] = tensor_of(value).to(p.dtype, copy=True)

    def _update_in_graph(self, entry: Entry, gradient: Tensor, hyper: Hyperparameters) -> None:
        """The same for gradients through it: state is replaced, the parameter alone is written in
        place.
        """

        def computed(x: Tensor) -> Tensor:
            return _widened(x) if needs_float32(entry) else x

        p, state = entry.parameter, self.state[entry.parameter]
        slots = Slots(
            *(computed(state[key]) if key in state else None for key in (MOMENTUM, ACCUMULATOR))
        )
        weight, slots = sgd_step(
            computed(p), computed(gradient), slots, hyper, entry.recipe, entry.draw(self)
        )
        p.copy_(weight)
        state.update(
            {
                key: value.to(p.dtype)
                for key, value in zip((MOMENTUM, ACCUMULATOR), slots, strict=True)
                if value is not None
            }
        )


def _computed(entry: Entry, x: Tensor) -> Tensor:
    """What the step is given: float32 for 16-bit tensors of the host that are to be rounded once.
    Those of a GPU are computed with in float32 as they are (`StepInputs.widen`).
    """
    return _widened(x) if _is_widened(entry, x) else x


def _is_widened(entry: Entry, x: Tensor) -> bool:
    return needs_float32(entry) and is_16bit(x) and not x.is_cuda


def _widened(x: Tensor) -> Tensor:
    return x.to(torch.float32) if is_16bit(x) else x


def _store_result(entry: Entry, x: Tensor, view: Array, result: Array) -> None:
    """x becomes the result, which stands in its view already where that is x's own memory."""
    if _is_widened(entry, x):
        x.copy_(tensor_of(result))
    else:
        settle(x, view, result)


def _check_hyper(group: dict[str, Any]) -> None:
    """TypeError or ValueError where hyper-parameters are out of the core's range."""
    if isinstance(group["lr"], Tensor) and group["lr"].numel() != 1:
        raise ValueError(
            f"lr must be a number or a tensor of one element, got shape {tuple(group['lr'].shape)}"
        )
    check_bool("nesterov", group["nesterov"])
    check_bool("maximize", group["maximize"])
    lr = float(group["lr"].detach()) if isinstance(group["lr"], Tensor) else group["lr"]
    CoreSGD(lr, group["momentum"], group["dampening"], group["weight_decay"], group["nesterov"])
