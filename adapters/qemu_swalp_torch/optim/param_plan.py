"""Which parameters of an optimizer are rounded, and how."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from qemu_swalp.interop.torch import check_plain, is_dtensor
from qemu_swalp.training import Recipe, TensorRandomBits
from qemu_swalp.training.layouts import resolved_for
from qemu_swalp.training.param_plan import (
    RoundedState,
    check_parameter,
    rounded_states,
    stores_rounded,
)

from ..tensors.arrays import on_tensors
from ..tensors.model_names import (
    KNOWN,
    known_names,
    override_names,
    override_names_beside,
    without_wrappers,
)
from .layouts import layout_from
from .param_groups import (
    ACCUMULATOR,
    LAYOUTS,
    NAMES,
    RECIPE,
    SEED,
    STEP,
    Groups,
    recipe_from,
    sync,
)
from .wrappers import state_with

MOMENTA = ("momentum_buffer", "exp_avg")
"""Names under which optimizers keep what the role `momentum` stands for."""


class Entry(NamedTuple):
    """One parameter of an optimizer, and what is rounded for it."""

    parameter: Tensor
    label: str
    """Its name, or its place."""
    group: int
    tensor: int
    """Its index among all parameters, in `param_groups` order: it numbers the random streams."""
    recipe: Recipe
    states: tuple[RoundedState, ...]

    @property
    def rounded(self) -> bool:
        recipe = self.recipe
        return bool(self.states or recipe.weight or recipe.gradient or recipe.accumulator)

    def draw(self, optimizer: Optimizer) -> TensorRandomBits:
        """Random bits of the present step."""
        group = optimizer.param_groups[self.group]
        return TensorRandomBits(group[SEED], self.tensor, group[STEP])


def is_16bit(x: Tensor) -> bool:
    """Whether a tensor is stored in float16 or bfloat16."""
    return x.dtype in (torch.float16, torch.bfloat16)


def needs_float32(entry: Entry) -> bool:
    """Whether the optimizer's own 16-bit store would round before we do."""
    return is_16bit(entry.parameter) and stores_rounded(entry.recipe, entry.states)


class Plan:
    """The entries of one optimizer, made anew when its parameters or recipe change (as
    `add_param_group` does), or names become known.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.made_for: tuple[list[int], str, int] = ([], "", 0)

    def refresh(self, optimizer: Optimizer) -> list[Entry]:
        """The entries as of now. TypeError or ValueError, and no change, where parameters and
        recipe do not go together.
        """
        groups = optimizer.param_groups
        key = [id(p) for group in groups for p in group["params"]], groups[0][RECIPE], len(KNOWN)
        if key != self.made_for:
            sync(groups)
            made = list(entries(groups))
            for entry in made:
                check_entry(entry)
            self.entries, self.made_for = made, key
        return self.entries


def entries(groups: Groups) -> Iterator[Entry]:
    """All parameters in `param_groups` order. ValueError where the recipe has overrides and a
    parameter no name, or names axes by words that a parameter's layout does not tell.
    """
    tensor, known = 0, known_names()
    for g, group in enumerate(groups):
        recipe = recipe_from(group[RECIPE])
        names = _names(group)
        if recipe.overrides and (names is None or len(names) != len(group["params"])):
            patterns = ", ".join(pattern for pattern, _ in recipe.overrides)
            raise ValueError(
                f"the recipe has overrides by parameter name ({patterns}), but the parameters of "
                f"param_groups[{g}] have no names; pass model= or named_parameters=, or make the "
                "optimizer (or the added group) from (name, parameter) pairs"
            )
        for i, (label, p) in enumerate(labels(g, group, known)):
            own = recipe.of(label) if recipe.overrides else recipe
            if own.axis_words:
                layout, holder = layout_from(group[LAYOUTS][i])
                own = resolved_for(own, label, tuple(p.shape), layout, holder)
            own = on_tensors(own, label)
            yield Entry(p, label, g, tensor, own, rounded_states(own, MOMENTA))
            tensor += 1


def labels(g: int, group: dict[str, Any], known: dict[int, str]) -> Iterator[tuple[str, Tensor]]:
    """The parameters of group g, each with its name, the group's or a `known` one, or its place."""
    names = _names(group)
    for i, p in enumerate(group["params"]):
        place = f"param_groups[{g}]['params'][{i}]"
        yield names[i] if names else known.get(id(p), place), p


def _names(group: dict[str, Any]) -> list[str] | None:
    return group.get(NAMES) or group.get("param_names")


def state_tensors(value: Any) -> Iterator[tuple[str, Tensor]]:
    """(suffix of the role, tensor) of an optimizer state: a tensor, or a list of tensors as LBFGS
    keeps.
    """
    if isinstance(value, Tensor):
        yield "", value
    elif isinstance(value, list | tuple):
        yield from ((f".{i}", item) for i, item in enumerate(value) if isinstance(item, Tensor))


def check_accumulator(entry: Entry, accumulator: Tensor) -> None:
    """RuntimeError if an accumulator is not like its parameter, as after surgery on the state."""
    p = entry.parameter
    if accumulator.shape != p.shape:
        raise RuntimeError(
            f"{entry.label} has shape {tuple(p.shape)}, and its accumulator"
            f" {tuple(accumulator.shape)}; what exchanges a parameter must exchange"
            f" optimizer.state[p][{ACCUMULATOR!r}] as well, or delete it, for the next step to"
            " begin from the weight"
        )


def check_dense(gradient: Tensor, label: str) -> None:
    """RuntimeError, as torch.optim raises it, for a sparse gradient."""
    if gradient.layout is not torch.strided:
        raise RuntimeError(
            f"the gradient of {label} is sparse ({gradient.layout}); quantization takes dense ones:"
            " make the embedding with sparse=False, or leave the parameter out by an override"
        )


def check_states(optimizers: Iterable[Optimizer], entry: Entry) -> None:
    """TypeError if state that is rounded keeps its numbers in a format of its own."""
    for key, role, _ in entry.states:
        state = state_with(optimizers, entry.parameter, key)
        for _, x in state_tensors(state.get(key)):
            if type(x) is not Tensor and not is_dtensor(x):
                kind = type(x)
                raise TypeError(
                    f"the optimizer keeps its state {key!r} of {entry.label} as a"
                    f" {kind.__module__}.{kind.__qualname__}, whose numbers have a format of their"
                    f" own, so that the recipe's {role} cannot round them; leave {role} out of the"
                    " recipe, or use an optimizer that keeps tensors, such as one of torch.optim"
                )


def check_entry(entry: Entry) -> None:
    """Check that a parameter fits what is rounded for it.

    Raises
    ------
    TypeError, ValueError: if its kind, dtype or shape does not fit the formats; it names the
        parameter.
    """
    if entry.rounded:
        p = entry.parameter
        check_plain(p, entry.label)
        dtype = str(p.dtype).removeprefix("torch.")
        check_parameter(entry.label, dtype, p.ndim, entry.recipe, entry.states)


def check_overrides(recipe: Recipe, names: list[list[str]], model: nn.Module | None) -> None:
    """ValueError if a pattern of the recipe's overrides matches nothing."""
    if model is not None:
        recipe.check_patterns(override_names(model))
        return
    parameters = [name for group in names for name in group]
    patterns = [pattern for pattern, _ in recipe.overrides]
    recipe.check_patterns(override_names_beside(parameters, patterns))


def names_from(
    groups: Groups, named: Iterable[tuple[str, Tensor]] | None
) -> list[list[str]] | None:
    """Names of the parameters, group by group: from `named`, or as the optimizer was given them;
    None without.
    """
    if named is None:
        given = [group.get("param_names") for group in groups]
        if None in given:
            return None
        cleaned = iter(without_wrappers(name for names in given for name in names or ()))
        return [list(islice(cleaned, len(names or ()))) for names in given]
    known: dict[int, str] = {}
    for name, p in named:
        known.setdefault(id(p), name)
    for g, group in enumerate(groups):
        for i, p in enumerate(group["params"]):
            if id(p) not in known:
                raise ValueError(
                    f"parameter {i} of param_groups[{g}], of shape {tuple(p.shape)}, is not among"
                    f" the {len(known)} named parameters; pass the model that the optimizer was"
                    " made for"
                )
    return [[known[id(p)] for p in group["params"]] for group in groups]
