"""Quantize any optimizer of PyTorch where it stands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from qemu_swalp._util.checks import check_bool
from qemu_swalp.interop.torch import untraced
from qemu_swalp.training import Recipe, TensorRandomBits, as_recipe
from qemu_swalp.training.seeds import seed_for

from .._compat import complete_lbfgs
from ..sections import check_section
from ..tensors import model_names
from ..tensors.arrays import rounded_for
from .load_guard import check_same_recipe
from .param_groups import (
    ACCUMULATOR,
    LAYOUTS,
    RECIPE,
    SEED,
    STEP,
    Groups,
    count_on_device,
    erase,
    is_configured,
    write,
)
from .param_plan import Entry, check_entry, check_overrides, entries, names_from
from .schedule_free import check_set_up
from .step_hooks import StepHooks
from .wrappers import hooked_by

OptimizerT = TypeVar("OptimizerT", bound=Optimizer)

HOOKS = "_qemu_hooks"
"""Attribute of a quantized optimizer; copies come without it, as they come without hooks."""

HOOKED: WeakSet[Optimizer] = WeakSet()
"""The quantized optimizers of this process."""


def quantize_optimizer(
    opt: OptimizerT,
    recipe: Recipe | str,
    *,
    model: nn.Module | None = None,
    named_parameters: Iterable[tuple[str, Tensor]] | None = None,
    seed: int | None = None,
    allow_recipe_change: bool = False,
    capturable: bool | None = None,
) -> OptimizerT:
    """Round weights, gradients and state of an optimizer at each step (algorithm 2 of Yang et al.
    2019, step 3).

    The optimizer stays the object that it is: schedulers, GradScaler, checkpoints, closures and
    `torch.compile` go on as before. Weights are rounded once now and after each step; gradients
    before the update (after each call of a closure); state after it. With an accumulator the update
    is added to `opt.state[p]["qemu_accumulator"]`, and the weight is rounded from it. What else
    writes into such a weight between two steps (clipping, loading) becomes the accumulator's; a
    copy of the weights is kept for that.

    Parameters
    ----------
    opt : any `torch.optim.Optimizer`, fused and foreach ones included, or what Accelerate,
        Lightning or Fabric made of it; parameters of any shape in float16, bfloat16, float32 or
        float64, plain or DTensor.
    recipe : `qemu_swalp.training.Recipe`, or the name of a preset such as "swalp8"; its roles
        weight, gradient, momentum (`momentum_buffer`, `exp_avg`), accumulator and the names in
        `state` count here. A second moment (`exp_avg_sq`) needs a wide format: in a narrow one it
        vanishes. Without one it stays in full precision.
    model, named_parameters : where the names come from that the recipe's overrides match; not
        needed without overrides, or where the optimizer was made from (name, parameter) pairs. Axes
        by words, as in "swalp8", go by the layout of the module that holds a parameter, in `model`
        or anywhere in this process (`qemu_swalp.training.register_layout`).
    seed : of the random bits, which depend on (seed, role, index of the tensor in
        `opt.param_groups`, step) alone: equal on all ranks, as they must be. None: another one for
        each optimizer of this process, the same at each run of the program, if all ranks make their
        optimizers in the same order. Checkpoints and copies keep it.
    allow_recipe_change : let `load_state_dict` accept checkpoints of another recipe, or of none;
        otherwise they are refused.
    capturable : count steps on the device and read nothing from it, so that a CUDA graph of the
        step draws fresh random bits at each replay. None: as the optimizer's own option of that
        name says.

    A float16 or bfloat16 parameter whose weight, accumulator or state is rounded is updated in
    float32, and weight and state are rounded once from there. The bits are those of a float32 run
    whose numbers are rounded at each step. What has no quantizer is rounded to nearest. New state
    is stored in the parameter's dtype. During a step there are float32 copies of these parameters,
    gradients and state; if the step raises, the parameters are as before. Other 16-bit parameters
    are updated as PyTorch does it.

    With the optimizer's `differentiable=True` the roundings are part of the graph, with
    straight-through gradients: rounded gradients and state are new tensors, weights are written in
    place as PyTorch does it.

    Returns
    -------
    `opt` itself. `unquantize_optimizer` undoes everything but the rounding.

    Raises
    ------
    TypeError: if `opt` is not an Optimizer or `recipe` not a recipe; if a parameter is a tensor
        subclass other than DTensor; if a parameter's dtype cannot represent a format.
    ValueError: if `opt` is quantized already, or the recipe rounds nothing in an optimizer; if it
        has overrides and a parameter has no name; if a parameter lacks a block's axis; if the
        recipe names axes by words and no layout is known of a parameter of several dimensions; if a
        16-bit parameter meets `differentiable=True`. `opt` is then as before.
    RuntimeError: at a step, if a gradient is sparse, or if the optimizer writes into a 16-bit
        parameter past `param_groups`.

    >>> import torch
    >>> from qemu_swalp.training import swalp
    >>> model = torch.nn.Linear(3, 2)
    >>> opt = quantize_optimizer(torch.optim.Adam(model.parameters()), swalp(8))
    >>> model(torch.ones(1, 3)).sum().backward()
    >>> opt.step()
    """
    given, opt = opt, hooked_by(opt, "opt")  # type: ignore[assignment]
    recipe = as_recipe(recipe)
    check_section(recipe, "optimizer")
    recipe = recipe.in_section("optimizer")
    if model is not None and named_parameters is not None:
        raise TypeError(
            "model and named_parameters exclude each other: both give the parameters' names"
        )
    if hasattr(opt, HOOKS) or is_native(opt):
        raise ValueError(
            f"this {type(opt).__name__} is already quantized; call unquantize_optimizer on it first"
        )
    check_set_up(opt)
    if capturable is None:
        capturable = any(group.get("capturable") for group in opt.param_groups)
    check_bool("capturable", capturable)
    if model is not None:
        model_names.remember(model)
        recipe = model_names.placed(recipe, model)
    named = None if named_parameters is None else model_names.unwrapped(named_parameters)
    if model is not None:
        named = model_names.named_parameters(model)
    names = names_from(opt.param_groups, named) if recipe.overrides else None
    if names is not None:
        check_overrides(recipe, names, model)
    with seed_for("optimizer", seed) as drawn, _all_or_nothing(opt):
        _configure(opt, recipe, drawn, names, model, allow_recipe_change)
        if capturable:
            count_on_device(opt.param_groups)
        _round_weights(opt, attach(opt, allow_recipe_change).entries)
    return given


@torch.no_grad()
def _round_weights(opt: Optimizer, entries: list[Entry]) -> None:
    """Round the weights that an optimizer begins with: all of them, or none if one raises."""
    rounded = []
    for entry in entries:
        if entry.recipe.weight is not None:
            bits = TensorRandomBits(opt.param_groups[0][SEED], entry.tensor, 0)
            value = rounded_for(entry.parameter, entry.recipe.weight, bits, "initial")
            rounded.append((entry.parameter, value))
    for p, value in rounded:
        p.copy_(value)


@contextmanager
def _all_or_nothing(opt: Optimizer) -> Iterator[None]:
    """If set-up raises within it, the optimizer is left as it was."""
    groups, defaults = [dict(group) for group in opt.param_groups], opt.defaults
    try:
        yield
    except BaseException:
        _detach(opt)
        opt.defaults = defaults
        for group, before in zip(opt.param_groups, groups, strict=True):
            group.clear()
            group.update(before)
        raise


def unquantize_optimizer(opt: OptimizerT) -> OptimizerT:
    """Take hooks, configuration and accumulators off an optimizer; weights and state keep their
    values. Returns `opt`.

    ValueError unless it was quantized by `quantize_optimizer`.
    """
    given, opt = opt, hooked_by(opt, "opt")  # type: ignore[assignment]
    if is_native(opt) or RECIPE not in opt.param_groups[0]:
        raise ValueError(
            "opt must be an optimizer that quantize_optimizer was called on, got"
            f" {type(opt).__name__}"
        )
    _detach(opt)
    erase(opt.param_groups)
    for state in opt.state.values():
        if isinstance(state, dict):
            state.pop(ACCUMULATOR, None)
    return given


def attach(opt: Optimizer, allow_recipe_change: bool = False) -> StepHooks:
    """Hook an optimizer whose param_groups hold the configuration."""
    hooks = StepHooks(allow_recipe_change)
    hooks.refresh(opt)
    hooks.register(opt)
    setattr(opt, HOOKS, hooks)
    opt.defaults = Defaults(opt.defaults)
    HOOKED.add(opt)
    return hooks


def _detach(opt: Optimizer) -> None:
    """Inverse of `attach`."""
    hooks = opt.__dict__.pop(HOOKS, None)
    if hooks is not None:
        hooks.remove()
    opt.defaults = dict(opt.defaults)
    HOOKED.discard(opt)


def is_native(opt: Optimizer) -> bool:
    """Whether the optimizer quantizes by itself, as our SGD does."""
    return bool(getattr(type(opt), "quantizes_itself", False))


class Defaults(dict[str, Any]):
    """`Optimizer.defaults` of a quantized optimizer, by which its copies are known."""


@cache
def watch_copies() -> None:
    """Called when the package is imported: from then on copies, whose hooks
    `Optimizer.__getstate__` drops, get theirs at their first step, and plain optimizers that hold
    our configuration are refused.
    """
    register_optimizer_step_pre_hook(_attach_if_copy)


def _attach_if_copy(opt: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if RECIPE in opt.param_groups[0] and not hasattr(opt, HOOKS) and not is_native(opt):
        if isinstance(opt.defaults, Defaults):
            _attach_copy(opt)
        else:
            _check_rounds_elsewhere(opt)


@untraced
def _attach_copy(opt: Optimizer) -> None:
    complete_lbfgs(opt)
    attach(opt)


@untraced
def _check_rounds_elsewhere(opt: Optimizer) -> None:
    """RuntimeError unless the optimizer wraps a quantized one, whose list of groups it shares."""
    if not any(other.param_groups is opt.param_groups for other in HOOKED):
        raise RuntimeError(
            f"this {type(opt).__name__} is not quantized, but its param_groups hold the"
            " configuration of a quantized optimizer, whose state it loaded or whose param_groups"
            " it was made from; call quantize_optimizer on it to go on with rounding, or"
            " unquantize_optimizer to go on without"
        )


def _configure(
    opt: Optimizer,
    recipe: Recipe,
    seed: int,
    names: list[list[str]] | None,
    model: nn.Module | None,
    allow_recipe_change: bool,
) -> None:
    """Write the configuration, all checked; seed and step are those that a copied or loaded
    optimizer brings.
    """
    trial: Groups = [
        {key: group[key] for key in ("params", "param_names") if key in group}
        for group in opt.param_groups
    ]
    write(trial, recipe, seed, 0, names, model)
    for entry in entries(trial):
        check_entry(entry)
    step, first = 0, opt.param_groups[0]
    if is_configured(opt.param_groups):
        if not allow_recipe_change:
            check_same_recipe(first[RECIPE], trial)
        seed, step = first[SEED], first[STEP]
    for group, tried in zip(opt.param_groups, trial, strict=True):
        group.pop(LAYOUTS, None)
        group.update({LAYOUTS: tried[LAYOUTS]} if LAYOUTS in tried else {})
    write(opt.param_groups, recipe, seed, step, names)
