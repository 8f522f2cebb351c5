"""The configuration of a quantized optimizer: plain values in its `param_groups`.

There they survive `state_dict`, `torch.save` with `weights_only=True`, distributed checkpoints,
deepcopy and pickle; objects would not.
"""

from __future__ import annotations

import json
from functools import lru_cache
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from qemu_swalp.formats.base import forget_on_redefinition
from qemu_swalp.training import Recipe

from .layouts import layouts_of

RECIPE, SEED, STEP, NAMES, LAYOUTS, DTYPES, PLACEHOLDERS = (
    "qemu_recipe",
    "qemu_seed",
    "qemu_step",
    "qemu_names",
    "qemu_layouts",
    "qemu_dtypes",
    "qemu_placeholders",
)
"""Keys of a param_group: recipe as JSON; seed, and number of steps made, an int or a counter of
`count_on_device`; names of the parameters, where the recipe asks for them, and their layouts, where
it names axes by words; dtypes of the parameters, by which loading knows whether state may keep its
own; whether the optimizer's state is what a step has left that is none (`no_step`).
"""

KEYS = (RECIPE, SEED, STEP, NAMES, LAYOUTS, DTYPES, PLACEHOLDERS)

ACCUMULATOR = "qemu_accumulator"
"""Key of `optimizer.state[p]`: the weight in the accumulator's format, a tensor like p."""

Groups = list[dict[str, Any]]


def write(
    groups: Groups,
    recipe: Recipe,
    seed: int,
    step: int | Tensor,
    names: list[list[str]] | None,
    model: nn.Module | None = None,
) -> None:
    """Put the configuration into every group. `model` : where layouts are looked for first."""
    text = json.dumps(recipe.to_dict())
    for i, group in enumerate(groups):
        group.update({RECIPE: text, SEED: seed, STEP: step})
        if names is not None:
            group[NAMES] = names[i]
    sync(groups, model)


def sync(groups: Groups, model: nn.Module | None = None) -> None:
    """Give groups added since the first group's configuration, and record layouts and dtypes of the
    parameters.
    """
    _record_layouts(groups, model)
    for group in groups:
        for key in (RECIPE, SEED):
            group.setdefault(key, groups[0][key])
        if STEP not in group:
            step = groups[0][STEP]
            group[STEP] = step.to(_device(group), copy=True) if isinstance(step, Tensor) else step
        group[DTYPES] = dtypes(group)
        group.setdefault(PLACEHOLDERS, groups[0].get(PLACEHOLDERS, False))


def _record_layouts(groups: Groups, model: nn.Module | None) -> None:
    """Where the recipe names axes by words. What was recorded before stays: a copy may be without
    its modules.
    """
    if not recipe_from(groups[0][RECIPE]).axis_words:
        return
    lacking = [g for g in groups if len(g.get(LAYOUTS, ())) != len(g["params"])]
    parameters = [p for group in lacking for p in group["params"]]
    layouts = iter(layouts_of(parameters, () if model is None else model.modules()))
    for group in lacking:
        group[LAYOUTS] = list(islice(layouts, len(group["params"])))


def count_on_device(groups: Groups) -> None:
    """From now on each group counts steps in a tensor beside its parameters, so that replays of
    CUDA graphs count.
    """
    for group in groups:
        group[STEP] = torch.tensor(int(group[STEP]), dtype=torch.int64, device=_device(group))


def counts_on_device(groups: Groups) -> bool:
    """Whether nothing of a step may be read by the host."""
    return isinstance(groups[0][STEP], Tensor)


def _device(group: dict[str, Any]) -> torch.device:
    device: torch.device = group["params"][0].device
    return device


def advance(groups: Groups, skipped: bool | Tensor = False) -> None:
    """Count a step, in place on a device; not where it was skipped."""
    for group in groups:
        if isinstance(group[STEP], Tensor):
            group[STEP].add_(~skipped if isinstance(skipped, Tensor) else not skipped)
        elif not skipped:
            group[STEP] += 1


def erase(groups: Groups) -> None:
    """Inverse of `write`."""
    for group in groups:
        for key in KEYS:
            group.pop(key, None)


def dtypes(group: dict[str, Any]) -> str:
    """The dtypes that occur in a group, as in "bfloat16,float32"."""
    return ",".join(sorted({str(p.dtype).removeprefix("torch.") for p in group["params"]}))


@forget_on_redefinition
@lru_cache(maxsize=256)
def recipe_from(text: str) -> Recipe:
    """Inverse of what `write` stores."""
    return Recipe.from_dict(json.loads(text))


def is_configured(groups: Groups) -> bool:
    """Whether groups, perhaps loaded ones, hold a configuration. ValueError where it is damaged."""
    present = [key in group for group in groups for key in (RECIPE, SEED, STEP)]
    if not any(present):
        return False
    if not all(present) or not all(_is_sound(group) for group in groups):
        keys = (RECIPE, SEED, STEP)
        raise ValueError(
            f"the checkpoint is damaged: every param_group must hold {RECIPE}, a string, {SEED} and"
            f" {STEP}, integers; got {[{key: group.get(key) for key in keys} for group in groups]}"
        )
    return True


def _is_sound(group: dict[str, Any]) -> bool:
    step = group[STEP]
    counter = isinstance(step, Tensor) and step.ndim == 0 and step.dtype == torch.int64
    return (
        type(group[RECIPE]) is str and type(group[SEED]) is int and (type(step) is int or counter)
    )
