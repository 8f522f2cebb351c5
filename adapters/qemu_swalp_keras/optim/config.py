"""The arguments that our optimizers share, checked, and their form in a Keras config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from qemu_swalp._util.checks import check_bool, check_choice, check_int
from qemu_swalp.training import Averaging, Recipe
from qemu_swalp.training.averaging.base import NONFINITE
from qemu_swalp.training.seeds import seed_for

from ..sections import check_section, recipe_of


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
        call: str,
        recipe: Recipe | str | Mapping[str, Any] | None,
        seed: int | None,
        swa_start: int | None,
        swa_cycle: int,
        swa_include_start: bool,
        swa_finalize: bool,
        swa_nonfinite: str,
    ) -> Settings:
        """The settings of the arguments of a call.

        Raises
        ------
        TypeError, ValueError: if an argument is of another type or out of range; if the recipe
            rounds something, but nothing that the call applies.
        """
        rounds_average = swa_start is not None and "average" in recipe_of(recipe).sections
        recipe = recipe_of(recipe) if rounds_average else check_section(recipe, "optimizer", call)
        recipe = recipe.in_section("optimizer")
        check_bool("swa_finalize", swa_finalize)
        check_int("swa_cycle", swa_cycle, 1, 2**31 - 1)
        check_bool("swa_include_start", swa_include_start)
        check_choice("swa_nonfinite", swa_nonfinite, NONFINITE)
        if swa_start is not None:
            check_int("swa_start", swa_start, 0, 2**31 - 1)
        with seed_for("optimizer", seed) as drawn:
            averaging = None
            if swa_start is not None:
                averaging = Averaging(
                    swa_start,
                    swa_cycle,
                    swa_include_start,
                    recipe.average,
                    drawn,
                    nonfinite=swa_nonfinite,
                )
            return Settings(recipe, drawn, averaging, swa_finalize)

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
            "swa_nonfinite": "raise" if rule is None else rule.nonfinite,
        }


def restored(config: Mapping[str, Any]) -> dict[str, Any]:
    """A saved config with its recipe, which may be empty: that was settled when it was saved."""
    recipe = replace(Recipe.from_dict(config["recipe"]), allow_empty=True)
    return {**config, "recipe": recipe}
