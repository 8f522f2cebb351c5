"""The configuration of a quantized optimizer: plain values in its `param_groups`.

There they survive `state_dict`, `torch.save` with `weights_only=True`, distributed checkpoints, deepcopy and pickle;
objects would not.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from qemu_swalp.training import Recipe

RECIPE, SEED, STEP, NAMES, DTYPES = "qemu_recipe", "qemu_seed", "qemu_step", "qemu_names", "qemu_dtypes"
"""Keys of a param_group: recipe as JSON; seed and number of steps made, ints; names of the parameters, where the recipe
asks for them; dtypes of the parameters, by which loading knows whether state may keep its own."""

KEYS = (RECIPE, SEED, STEP, NAMES, DTYPES)

ACCUMULATOR = "qemu_accumulator"
"""Key of `optimizer.state[p]`: the weight in the accumulator's format, a tensor like p."""

Groups = list[dict[str, Any]]


def write(groups: Groups, recipe: Recipe, seed: int, step: int, names: list[list[str]] | None) -> None:
    """Put the configuration into every group."""
    text = json.dumps(recipe.to_dict())
    for i, group in enumerate(groups):
        group.update({RECIPE: text, SEED: seed, STEP: step})
        if names is not None:
            group[NAMES] = names[i]
    sync(groups)


def sync(groups: Groups) -> None:
    """Give groups added since the first group's configuration, and record the parameters' dtypes."""
    for group in groups:
        for key in (RECIPE, SEED, STEP):
            group.setdefault(key, groups[0][key])
        group[DTYPES] = dtypes(group)


def advance(groups: Groups) -> None:
    """Count a step."""
    for group in groups:
        group[STEP] += 1


def erase(groups: Groups) -> None:
    """Inverse of `write`."""
    for group in groups:
        for key in KEYS:
            group.pop(key, None)


def dtypes(group: dict[str, Any]) -> str:
    """The dtypes that occur in a group, as in "bfloat16,float32"."""
    return ",".join(sorted({str(p.dtype).removeprefix("torch.") for p in group["params"]}))


@lru_cache(maxsize=256)
def recipe_from(text: str) -> Recipe:
    """Inverse of what `write` stores."""
    return Recipe.from_dict(json.loads(text))


def is_configured(groups: Groups) -> bool:
    """Whether groups, perhaps loaded ones, hold a configuration. ValueError where it is damaged."""
    held = [key in group for group in groups for key in (RECIPE, SEED, STEP)]
    if not any(held):
        return False
    kinds = ((RECIPE, str), (SEED, int), (STEP, int))
    if not all(held) or not all(type(group[key]) is kind for group in groups for key, kind in kinds):
        raise ValueError(f"the checkpoint is damaged: every param_group must hold {RECIPE}, a string, {SEED} and "
                         f"{STEP}, integers; got {[{key: group.get(key) for key, _ in kinds} for group in groups]}")
    return True
