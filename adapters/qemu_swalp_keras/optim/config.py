"""The arguments that our optimizers share, checked, and their form in a Keras config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qemu_swalp._util.checks import check_bool, check_int
from qemu_swalp.training import Averaging, Recipe


@dataclass(frozen=True)
class Settings:
    """What is rounded, with which random bits, and what is averaged."""

    recipe: Recipe
    seed: int
    averaging: Averaging | None
    """None without SWALP; its quantizer is that of the recipe's role `average`."""
    swa_finalize: bool

    @staticmethod
    def of(
        recipe: Recipe | Mapping[str, Any],
        seed: int,
        swa_start: int | None,
        swa_cycle: int,
        swa_include_start: bool,
        swa_finalize: bool,
    ) -> Settings:
        """TypeError or ValueError, naming the argument, where one is out of range."""
        if isinstance(recipe, Mapping):
            recipe = Recipe.from_dict(recipe)
        if not isinstance(recipe, Recipe):
            raise TypeError(
                "`recipe` must be a `qemu_swalp.training.Recipe`, such as swalp(8) or "
                f"Recipe(weight='bfp8'). Received: recipe={recipe!r} (of type {type(recipe)})"
            )
        check_int("seed", seed, 0, 2**64 - 1)
        check_bool("swa_finalize", swa_finalize)
        check_int("swa_cycle", swa_cycle, 1, 2**31 - 1)
        check_bool("swa_include_start", swa_include_start)
        if swa_start is None:
            return Settings(recipe, seed, None, swa_finalize)
        check_int("swa_start", swa_start, 0, 2**31 - 1)
        averaging = Averaging(swa_start, swa_cycle, swa_include_start, recipe.average, seed=seed)
        return Settings(recipe, seed, averaging, swa_finalize)

    def config(self) -> dict[str, Any]:
        """Plain values, from which `of` makes the same settings."""
        rule = self.averaging
        return {
            "recipe": self.recipe.to_dict(),
            "seed": self.seed,
            "swa_start": None if rule is None else rule.start,
            "swa_cycle": 1 if rule is None else rule.cycle,
            "swa_include_start": rule is not None and rule.include_start,
            "swa_finalize": self.swa_finalize,
        }
