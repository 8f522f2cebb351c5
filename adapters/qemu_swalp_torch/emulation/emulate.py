"""One call that applies every section of a recipe to a model and its optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from qemu_swalp._util.checks import check_choice, check_patterns
from qemu_swalp._util.tables import table
from qemu_swalp.training import Recipe, as_recipe
from qemu_swalp.training.positions import literal
from qemu_swalp.training.roles import SECTIONS

from ..averaging.averager import Averager
from ..model.activations import quantize_activations
from ..model.coverage import POLICIES
from ..model.elementwise import quantize_elementwise
from ..model.handle import SiteHandle, disabled
from ..model.kinds import computes_itself
from ..model.matmuls import quantize_gemms
from ..model.selection import COMPUTING_MODULES, Selection, is_excluded, patterns_in
from ..model.walk import check_model
from ..optim.wrap import quantize_optimizer, unquantize_optimizer
from ..tensors.model_names import named_modules
from .report import lines_of

CALLS: dict[str, Callable[..., SiteHandle]] = {
    "activations": quantize_activations,
    "products": quantize_gemms,
    "elementwise": quantize_elementwise,
}
"""Sections of a recipe that are applied to the model, by the calls that do."""


def emulate(
    model: nn.Module,
    optimizer: Optimizer | None,
    recipe: Recipe | str,
    *,
    exclude: Selection = (),
    average: bool | Mapping[str, Any] = False,
    attention: bool = True,
    uncovered: str = "raise",
    seed: int | None = None,
) -> Emulation:
    """Apply all that a recipe says: to activations and errors, operands and sums of all products,
    elementwise operations, the optimizer's tensors, and, if asked, the average.

    Activations are the outputs of `COMPUTING_MODULES`, and of modules of one's own that have no
    others within and compute something. Every product that the model makes, forward and backward,
    is rounded as the recipe says, or the first forward raises. `print(handle)` shows what is
    rounded where.

    Parameters
    ----------
    model : any module. Parameters, buffers and state_dict stay untouched.
    optimizer : any `torch.optim.Optimizer` of its parameters; None if the recipe rounds nothing in
        an optimizer.
    recipe : `qemu_swalp.training.Recipe`, or the name of a preset such as "swalp8".
    exclude : modules that stay in float with all that is in them, their parameters included: a
        pattern of names, a module type, a predicate (name, module) -> bool, or a sequence of these.
    average : True for an `Averager` of the model, in the recipe's format of the average, that
        counts the optimizer's steps; or the arguments of one, as in {"start": 1000, "cycle": 10}.
    attention : whether products of two activations are rounded; see `quantize_gemms`.
    uncovered : what to do about what the recipe cannot be applied to: "raise", "warn" or "ignore".
    seed : of the random bits, as in the calls that apply one section; None: their default.

    Returns
    -------
    `Emulation`, with `remove()`, `state_dict()`, `disabled()` and `averager`; a context manager,
    too.

    Raises
    ------
    TypeError: for arguments of other types.
    ValueError: if the recipe is empty, if it rounds the optimizer's tensors and there is no
        optimizer, or if a section finds nothing to round. Model and optimizer are then as before.
    UncoveredError: at the first forward, if it computes something that could not be rounded.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> recipe = Recipe(operands={"input": "e4m3fn", "error": "e5m2"})
    >>> handle = emulate(model, optimizer, recipe, exclude="2")
    >>> model(torch.ones(1, 64)).sum().backward()
    >>> print(handle)
    place  role                        format  rounding      runs   FLOPs
    ─────  ──────────────────────────  ──────  ────────────  ────  ──────
    0      forward.input, wgrad.input  e4m3fn  nearest_even     1  86.5 %
    0      dgrad.error, wgrad.error    e5m2    nearest_even     1
    2      excluded: aten.addmm        float                       13.5 %
    """
    check_model(model)
    recipe = as_recipe(recipe)
    check_choice("uncovered", uncovered, POLICIES)
    names = [name for name, _ in named_modules(model)]
    check_patterns("exclude", patterns_in(exclude), names)
    common: dict[str, Any] = {"seed": seed}
    if not recipe.sections and not recipe.allow_empty:
        raise ValueError("nothing to round: the recipe is empty")
    if "optimizer" in recipe.sections and optimizer is None:
        roles = ", ".join(role for role in SECTIONS["optimizer"] if getattr(recipe, role))
        raise ValueError(f"the recipe rounds the optimizer's tensors ({roles}); pass the optimizer")
    made = Emulation(model, optimizer, recipe)
    try:
        for section, call in CALLS.items():
            if section not in recipe.sections:
                continue
            options: dict[str, Any] = {"exclude": exclude, **common}
            if section == "activations":
                options["modules"] = (*COMPUTING_MODULES, computes_itself)
            else:
                options["uncovered"] = uncovered
            if section == "products":
                options["attention"] = attention
            made.handles[section] = call(model, recipe, **options)
        if optimizer is not None and "optimizer" in recipe.sections:
            quantize_optimizer(
                optimizer, _without_excluded(model, recipe, exclude), model=model, **common
            )
            made.quantized = True
        if average or isinstance(average, Mapping):
            if optimizer is None:
                raise ValueError("an average counts the optimizer's steps; pass the optimizer")
            arguments = dict(average) if isinstance(average, Mapping) else {}
            if recipe.average is not None and "policy" not in arguments:
                arguments.setdefault("quantizer", recipe.average)
            made.averager = Averager(model, **arguments)
            made.hook = made.averager.attach(optimizer)
    except BaseException:
        made.remove()
        raise
    return made


def _without_excluded(model: nn.Module, recipe: Recipe, exclude: Selection) -> Recipe:
    """The recipe that leaves the parameters of excluded modules in float."""
    names = [
        f"{name}.{parameter}" if name else parameter
        for name, module in named_modules(model)
        if is_excluded(name, module, exclude)
        for parameter, _ in module.named_parameters(recurse=False)
    ]
    left_out: dict[str, Recipe | None] = dict.fromkeys(map(literal, names))
    return replace(recipe, overrides=(*left_out.items(), *recipe.overrides))


class Emulation:
    """What `emulate` returns: all that it applied; a context manager, which ends it."""

    def __init__(self, model: nn.Module, optimizer: Optimizer | None, recipe: Recipe) -> None:
        self.model, self.optimizer, self.recipe = model, optimizer, recipe
        self.handles: dict[str, SiteHandle] = {}
        """Section of the recipe → the handle of the call that applied it."""
        self.averager: Averager | None = None
        self.hook: Any = None
        self.quantized = False

    def remove(self) -> None:
        """Leave model and optimizer as they were; weights stay rounded. Does nothing the second
        time.
        """
        for handle in self.handles.values():
            handle.remove()
        if self.hook is not None:
            self.hook.remove()
        if self.quantized and self.optimizer is not None:
            unquantize_optimizer(self.optimizer)
        self.handles, self.hook, self.quantized = {}, None, False

    def disabled(self) -> AbstractContextManager[nn.Module]:
        """A context in which the model computes in float, as SWALP's average is evaluated."""
        return disabled(self.model)

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume needs beside the state of model and optimizer."""
        state: dict[str, Any] = {name: part.state_dict() for name, part in self.handles.items()}
        if self.averager is not None:
            state["averager"] = self.averager.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`. ValueError, and no change, where the parts are others."""
        known = set(self.handles) | ({"averager"} if self.averager is not None else set())
        if set(state) != known:
            raise ValueError(
                f"the state has the parts {sorted(state)}, and this emulation {sorted(known)};"
                " emulate by the recipe that the state was saved with"
            )
        for name, part in self.handles.items():
            part.load_state_dict(state[name])
        if self.averager is not None:
            self.averager.load_state_dict(state["averager"])

    def __str__(self) -> str:
        """A table: each place, its roles, their formats, how often it ran, its share of the
        floating-point operations of the products of the first forward; then what stays in float.
        """
        header = ("place", "role", "format", "rounding", "runs", "FLOPs")
        return table(header, lines_of(self), left=range(4))

    def __enter__(self) -> Emulation:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()
