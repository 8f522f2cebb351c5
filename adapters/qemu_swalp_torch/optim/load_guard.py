"""Loading: a checkpoint of another recipe is refused, and state keeps the dtype that it was saved
in.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from qemu_swalp.training import Quantizer

from .param_groups import (
    ACCUMULATOR,
    DTYPES,
    KEYS,
    LAYOUTS,
    NAMES,
    PLACEHOLDERS,
    RECIPE,
    SEED,
    STEP,
    Groups,
    dtypes,
    is_configured,
    recipe_from,
    sync,
)
from .param_plan import entries
from .shown_weights import ShownWeights

StateDict = dict[str, Any]


class LoadGuard:
    """Hooks around `load_state_dict` and `state_dict`. Seed and step come from the checkpoint, the
    recipe stays.

    `allow_recipe_change` lets checkpoints of another recipe, or of none, pass.
    """

    def __init__(self, shown: ShownWeights, allow_recipe_change: bool = False) -> None:
        self.shown, self.allow_recipe_change = shown, allow_recipe_change
        self.loading: tuple[StateDict, list[dict[str, Any]]] | None = None

    def register(self, optimizer: Optimizer) -> list[RemovableHandle]:
        return [
            optimizer.register_state_dict_pre_hook(self.before_save),
            optimizer.register_load_state_dict_pre_hook(self.before_load),
            optimizer.register_load_state_dict_post_hook(self.after_load),
        ]

    def before_save(self, optimizer: Optimizer) -> None:
        sync(optimizer.param_groups)

    def before_load(self, optimizer: Optimizer, state_dict: StateDict) -> None:
        """ValueError, before anything has changed, where the checkpoint's recipe is not the
        optimizer's.
        """
        sync(optimizer.param_groups)
        saved = state_dict["param_groups"]
        recipe = saved[0][RECIPE] if is_configured(saved) else "{}"
        if not self.allow_recipe_change:
            check_same_recipe(recipe, optimizer.param_groups)
        ours = [
            {key: group[key] for key in KEYS if key in group} for group in optimizer.param_groups
        ]
        self.loading = state_dict, ours

    def after_load(self, optimizer: Optimizer) -> None:
        if self.loading is None:
            return
        (state_dict, configurations), self.loading = self.loading, None
        for group, ours, saved in zip(
            optimizer.param_groups, configurations, state_dict["param_groups"], strict=True
        ):
            for key in (NAMES, LAYOUTS):
                group.pop(key, None)
            group.update(ours | {key: saved[key] for key in (SEED,) if key in saved})
            group[PLACEHOLDERS] = bool(saved.get(PLACEHOLDERS))
            if STEP in saved:
                group[STEP] = _counted(saved[STEP], ours[STEP])
            if saved.get(DTYPES) == dtypes(group):
                _restore_dtypes(optimizer, group["params"], saved["params"], state_dict["state"])
        recipe, groups = state_dict["param_groups"][0].get(RECIPE, "{}"), optimizer.param_groups
        former = {} if recipe == groups[0][RECIPE] else _weight_quantizers(recipe, groups)
        if former is None and any(ACCUMULATOR in s for s in optimizer.state.values()):
            warnings.warn(
                "the checkpoint's recipe cannot be applied to these parameters, so that weights"
                " which were written since cannot be told from rounded ones; all begin from the"
                " checkpoint's accumulators",
                stacklevel=2,
            )
        self.shown.forget(former)


def _counted(saved: int | Tensor, ours: int | Tensor) -> int | Tensor:
    """The saved step as our optimizer counts: in our own tensor, which CUDA graphs know, or as an
    int.
    """
    return ours.fill_(int(saved)) if isinstance(ours, Tensor) else int(saved)


def check_same_recipe(saved: str, groups: Groups) -> None:
    """ValueError that lists how a saved recipe and that of param_groups differ, unless they say the
    same of each parameter, as axes by words and by numbers may.
    """
    ours = groups[0][RECIPE]
    if saved == ours or _agree(saved, groups):
        return
    differences = "; ".join(
        _differences(recipe_from(saved).to_dict(), recipe_from(ours).to_dict(), "")
    )
    if differences:
        raise ValueError(
            f"the checkpoint was trained with another recipe: {differences}. Build the optimizer"
            " with the checkpoint's recipe, or pass allow_recipe_change=True to go on with the"
            " new one"
        )


def _agree(saved: str, groups: Groups) -> bool:
    """Whether another recipe rounds each parameter alike."""
    theirs: Groups = [{**group, RECIPE: saved} for group in groups]
    try:
        pairs = zip(entries(groups), entries(theirs), strict=True)
        return all(a.recipe == b.recipe for a, b in pairs)
    except (KeyError, ValueError):  # of a parameter without a name or a layout nothing is known
        return False


def _weight_quantizers(recipe: str, groups: Groups) -> dict[int, Quantizer | None] | None:
    """How another recipe rounds the weight of each parameter; None if it cannot say."""
    try:
        theirs = [*entries([{**group, RECIPE: recipe} for group in groups])]
    except (KeyError, ValueError):
        return None
    return {entry.tensor: entry.recipe.weight for entry in theirs}


def _differences(saved: dict[str, Any], ours: dict[str, Any], prefix: str) -> Iterator[str]:
    if prefix == "overrides." and set(saved) == set(ours) and list(saved) != list(ours):
        yield (
            f"overrides come in the order {', '.join(saved)} in the checkpoint, {', '.join(ours)}"
            " here"
        )
    for key in (*saved, *(k for k in ours if k not in saved)):
        a, b = saved.get(key), ours.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, f"{prefix}{key}.")
        elif a != b or (key in saved) != (key in ours):
            yield f"{prefix}{key} is {_said(saved, key)} in the checkpoint, {_said(ours, key)} here"


def _said(recipe: dict[str, Any], key: str) -> str:
    return "absent" if key not in recipe else str(recipe[key])


def _restore_dtypes(
    optimizer: Optimizer, parameters: list[Tensor], indices: list[Any], state: dict[Any, Any]
) -> None:
    """Undo the cast of state to its parameter's dtype (pytorch#43706); parameters have the dtypes
    they had.
    """
    for p, index in zip(parameters, indices, strict=True):
        for key, value in state.get(index, {}).items():
            loaded = optimizer.state[p].get(key)
            if key == "step" or not isinstance(value, Tensor) or not isinstance(loaded, Tensor):
                continue
            if loaded.dtype != value.dtype:
                optimizer.state[p][key] = value.to(loaded.device, copy=True)
