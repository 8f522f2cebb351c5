"""One call that applies every section of a recipe to a model and its optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from qemu_swalp._util.checks import check_choice, check_int, check_patterns, checked_options
from qemu_swalp._util.tables import table
from qemu_swalp.training import FULL_PRECISION, Phases, Recipe, as_recipe
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
from ..optim.param_groups import ACCUMULATOR, SEED, STEP
from ..optim.wrap import quantize_optimizer, unquantize_optimizer
from ..tensors.model_names import named_modules
from .operand_codes import quantized_weights
from .phases import StepWatcher
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
    recipe: Recipe | str | Phases,
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
    recipe : `qemu_swalp.training.Recipe`, or the name of a preset such as "swalp8"; or `Phases`,
        recipes by the number of the optimizer's step, which it `change`s at the end of a step.
    exclude : modules that stay in float with all that is in them, their parameters included. A
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
    UncoveredError: at the first forward, or its backward, if it computes something that could not
        be rounded.

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
    check_choice("uncovered", uncovered, POLICIES)
    averaging = checked_options("average", average)
    names = [name for name, _ in named_modules(model)]
    check_patterns("exclude", patterns_in(exclude), names)
    made = Emulation(model, optimizer, Options(exclude, attention, uncovered, seed))
    try:
        if isinstance(recipe, Phases):
            made.apply_phases(recipe)
        else:
            made.apply(as_recipe(recipe))
        if averaging is not None:
            made.average(averaging)
    except BaseException:
        made.remove()
        raise
    return made


@torch.no_grad()
def _write(values: Mapping[Tensor, Tensor]) -> None:
    for p, value in values.items():
        p.copy_(value)


class Options(NamedTuple):
    """Arguments of `emulate` that hold for whatever recipe is applied."""

    exclude: Selection
    attention: bool
    uncovered: str
    seed: int | None

    def of(self, section: str) -> dict[str, Any]:
        """Those of the call that applies a section to the model."""
        options: dict[str, Any] = {"exclude": self.exclude, "seed": self.seed}
        if section == "activations":
            return {**options, "modules": (*COMPUTING_MODULES, computes_itself)}
        if section == "products":
            options["attention"] = self.attention
        return {**options, "uncovered": self.uncovered}


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

    def __init__(self, model: nn.Module, optimizer: Optimizer | None, options: Options) -> None:
        self.model, self.optimizer, self.options = model, optimizer, options
        self.recipe = FULL_PRECISION
        self.handles: dict[str, SiteHandle] = {}
        """Section of the recipe → the handle of the call that applied it."""
        self.averager: Averager | None = None
        self.hook: Any = None
        self.quantized = False
        self.phases: Phases | None = None
        self.watcher: StepWatcher | None = None

    def apply(self, recipe: Recipe) -> None:
        """Make the calls that apply one section each; `emulate` tells the errors."""
        if not recipe.sections and not recipe.allow_empty:
            raise ValueError("nothing to round: the recipe is empty")
        if "optimizer" in recipe.sections and self.optimizer is None:
            roles = ", ".join(role for role in SECTIONS["optimizer"] if getattr(recipe, role))
            raise ValueError(
                f"the recipe rounds the optimizer's tensors ({roles}); pass the optimizer"
            )
        self.recipe = recipe
        for section, call in CALLS.items():
            if section in recipe.sections:
                self.handles[section] = call(self.model, recipe, **self.options.of(section))
        if self.optimizer is not None and "optimizer" in recipe.sections:
            within = _without_excluded(self.model, recipe, self.options.exclude)
            seed = self.options.seed
            quantize_optimizer(self.optimizer, within, model=self.model, seed=seed)
            self.quantized = True

    def apply_phases(self, phases: Phases) -> None:
        """Apply the first recipe now, and each other one after the step before its first."""
        if self.optimizer is None:
            raise ValueError("phases count the optimizer's steps; pass the optimizer")
        self.apply(replace(phases.at(0), allow_empty=True))
        self.phases, self.watcher = phases, StepWatcher(self.optimizer, self._to_step)

    def _to_step(self, step: int) -> None:
        """Go on by the recipe of the step of that number."""
        if self.phases is not None and self.phases.at(step) != self.recipe:
            self.change(replace(self.phases.at(step), allow_empty=True))

    def average(self, arguments: dict[str, Any]) -> None:
        """Average the model as `emulate` says."""
        if self.optimizer is None:
            raise ValueError("an average counts the optimizer's steps; pass the optimizer")
        if self.recipe.average is not None and "policy" not in arguments:
            arguments.setdefault("quantizer", self.recipe.average)
        self.averager = Averager(self.model, **arguments)
        self.hook = self.averager.attach(self.optimizer)

    def change(self, recipe: Recipe | str | None) -> None:
        """Go on by another recipe, as where a training ends in higher precision.

        Seeds, numbers of calls and of steps go on, and so does the average, as it was begun.
        Weights are rounded at once where the new recipe does, from the accumulator where the old
        one had it. A run that resumes after the change calls `emulate` with the new recipe.

        Parameters
        ----------
        recipe : as in `emulate`; None for full precision.

        Raises
        ------
        TypeError, ValueError: as `emulate`; all is then as before.

        >>> import torch
        >>> model = nn.Linear(64, 32)
        >>> handle = emulate(model, None, "mxfp4")
        >>> for step in range(10):
        ...     if step == 8:
        ...         handle.change("mxfp8")
        ...     model(torch.ones(1, 64)).sum().backward()
        >>> str(handle.recipe.quantizer("forward.input").format.element)
        'e4m3fn'
        """
        wanted = Recipe(allow_empty=True) if recipe is None else as_recipe(recipe)
        before, records = self.recipe, {name: h.state_dict() for name, h in self.handles.items()}
        counts, accumulators = self._counts(), self._accumulators()
        shown = {p: p.detach().clone() for p in accumulators}
        self._release()
        try:
            _write(accumulators)
            self.apply(wanted)
        except BaseException:
            self._release()
            _write(shown)
            self.apply(replace(before, allow_empty=True))
            for p, accumulator in accumulators.items():
                self.optimizer.state[p][ACCUMULATOR] = accumulator  # type: ignore[union-attr]
            self._go_on(records, counts)
            raise
        self._go_on(records, counts)

    def _accumulators(self) -> dict[Tensor, Tensor]:
        """The accumulator of each weight that has one, which is what the training has learned."""
        if not self.quantized or self.optimizer is None:
            return {}
        return {
            p: state[ACCUMULATOR]
            for p, state in self.optimizer.state.items()
            if isinstance(state, dict) and ACCUMULATOR in state
        }

    def _counts(self) -> list[dict[str, Any]]:
        """Seed and step of each group of a quantized optimizer."""
        groups = self.optimizer.param_groups if self.optimizer is not None else []
        return [{k: g[k] for k in (SEED, STEP)} for g in groups if self.quantized]

    def _go_on(self, records: dict[str, Any], counts: list[dict[str, Any]]) -> None:
        for section, handle in self.handles.items():
            for site in handle.sites:
                record = records.get(section, {}).get(site.name)
                if record is not None:
                    site.restore(record)
        if self.quantized and self.optimizer is not None:
            for group, count in zip(self.optimizer.param_groups, counts, strict=False):
                group.update(count)

    def _release(self) -> None:
        for handle in self.handles.values():
            handle.remove()
        if self.quantized and self.optimizer is not None:
            unquantize_optimizer(self.optimizer)
        self.handles, self.quantized = {}, False

    def remove(self) -> None:
        """Leave model and optimizer as they were; weights stay rounded. Does nothing the second
        time.
        """
        self._release()
        if self.watcher is not None:
            self.watcher.remove()
        if self.hook is not None:
            self.hook.remove()
        self.hook = self.watcher = None

    def disabled(self) -> AbstractContextManager[nn.Module]:
        """A context in which the model computes in float, as SWALP's average is evaluated."""
        return disabled(self.model)

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume needs beside the state of model and optimizer, which in a training
        in phases are loaded after it.
        """
        state: dict[str, Any] = {name: part.state_dict() for name, part in self.handles.items()}
        if self.averager is not None:
            state["averager"] = self.averager.state_dict()
        if self.watcher is not None:
            state["phases"] = {"step": self.watcher.steps}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`, after which a training in phases goes on by the recipe of its
        step. ValueError, and no change, where the parts are others.
        """
        if self.watcher is None:
            self._load(state)
            return
        plain = dict(state)
        record = plain.pop("phases", None)
        if not isinstance(record, Mapping) or set(record) != {"step"}:
            raise ValueError(f"the state must have {{'step': n}} for phases, got {record!r}")
        check_int("state['phases']['step']", record["step"], 0, 2**62)
        before = self.watcher.steps
        try:
            self._to_step(record["step"])
            self._load(plain)
        except BaseException:
            self._to_step(before)
            raise
        self.watcher.steps = record["step"]

    def _load(self, state: Mapping[str, Any]) -> None:
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

    def quantize_state_dict(self) -> dict[str, Any]:
        """The model's state dict with `qemu_swalp.QuantizedTensor` for each weight that is rounded
        as an operand: the codes that its forward product multiplies.

        `qemu_swalp.dequantize_state_dict(state, like=model)` gives the values, `save_state` a file.

        Raises
        ------
        ValueError: if a weight has no codes of its own, since it is rounded at random, under scales
            of calls before, transformed, or along no one of its axes. So it is in bilinear layers,
            transposed convolutions in groups and weights of `einsum`.

        >>> model = nn.Linear(64, 32)
        >>> handle = emulate(model, None, "mxfp8")
        >>> str(handle.quantize_state_dict()["weight"].format)
        'block<e4m3fn,axis=-1,size=32,scale=e8m0fnu,rule=rceil>'
        """
        return quantized_weights(self.model)

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
