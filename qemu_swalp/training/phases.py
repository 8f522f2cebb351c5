"""Recipes that follow each other in a training, by the number of the step."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .._util.checks import check_int
from .._util.tables import table
from .presets import as_recipe
from .recipe import FULL_PRECISION, Recipe


@dataclass(frozen=True, repr=False)
class Phases:
    """Recipes of a training, each from a step of the optimizer on.

    Parameters
    ----------
    recipes : {number of the first step: `Recipe`, the name of a preset, or None for full
        precision}. Steps count from 0, the first one of the training, which must be among them.

    Raises
    ------
    TypeError: if `recipes` is no such mapping.
    ValueError: if a number is negative, or none is 0.

    >>> phases = Phases({0: "fp4_all_the_way", 900: "bf16_sr", 990: None})
    >>> phases.at(899) == phases.at(0), phases.at(900).weight, phases.at(1000).sections
    (True, Quantizer(format=Float(...), rounding=Rounding(mode='stochastic_a', ...)), ())
    """

    recipes: tuple[tuple[int, Recipe], ...]

    def __init__(self, recipes: Mapping[int, Recipe | str | None]) -> None:
        if not isinstance(recipes, Mapping):
            raise TypeError(
                "recipes must be {number of the first step: recipe}, as in {0: 'nvfp4', 900:"
                f" 'mxfp8'}}, got {recipes!r}"
            )
        empty = replace(FULL_PRECISION, allow_empty=True)
        made = []
        for step, recipe in recipes.items():
            check_int("the number of a step", step, 0, 2**31 - 1)
            made.append((int(step), empty if recipe is None else as_recipe(recipe)))
        made.sort(key=lambda phase: phase[0])
        if not made or made[0][0] != 0:
            raise ValueError(
                f"a training begins with step 0, and recipes has the steps {[n for n, _ in made]};"
                " add {0: recipe}, or {0: None} for full precision"
            )
        object.__setattr__(self, "recipes", tuple(made))

    @property
    def several(self) -> bool:
        """Whether a recipe follows another."""
        return len(self.recipes) > 1

    def at(self, step: int) -> Recipe:
        """The recipe by which step number `step` is made."""
        check_int("step", step, 0, 2**62)
        return self.recipes[self._index(step)][1]

    def since(self, step: int) -> int:
        """The first step of the phase that step number `step` is in."""
        return self.recipes[self._index(step)][0]

    def until(self, step: int) -> int | None:
        """The first step of the phase after it; None in the last."""
        later = self.recipes[self._index(step) + 1 :]
        return later[0][0] if later else None

    def map(self, change: Callable[[Recipe], Recipe]) -> Phases:
        """The same steps, each phase's recipe changed."""
        return Phases({step: change(recipe) for step, recipe in self.recipes})

    def _index(self, step: int) -> int:
        return bisect_right(self.recipes, step, key=lambda phase: phase[0]) - 1

    def to_dict(self) -> dict[str, Any]:
        """Plain strings by the number of the step, as for JSON; `from_dict` reads them."""
        return {str(step): recipe.to_dict() for step, recipe in self.recipes}

    @staticmethod
    def from_dict(plain: Mapping[str, Any]) -> Phases:
        """Inverse of `to_dict`."""
        return Phases(
            {
                int(step): Recipe.from_dict(recipe) if recipe else None
                for step, recipe in plain.items()
            }
        )

    def __repr__(self) -> str:
        return f"Phases from the steps {', '.join(str(step) for step, _ in self.recipes)} on"

    def __str__(self) -> str:
        """A table: the first step of each recipe, and what it rounds."""
        rows = [(str(step), ", ".join(r.sections) or "nothing") for step, r in self.recipes]
        return table(("from step", "sections"), rows, left=range(2))
