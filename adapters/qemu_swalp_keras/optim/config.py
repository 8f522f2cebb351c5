"""The arguments that our optimizers share, checked, and their form in a Keras config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qemu_swalp._util.checks import check_bool, check_choice, check_int
from qemu_swalp.training import Averaging, Phases, Recipe
from qemu_swalp.training.averaging.base import NONFINITE
from qemu_swalp.training.seeds import seed_for

from ..layers.selection import Selection
from ..sections import check_section, phases_of, recipe_of
from .names import KEYS, Names


@dataclass(frozen=True)
class Settings:
    """What is rounded, with which random bits, and what is averaged."""

    phases: Phases
    """Of one recipe, or of several."""
    seed: int
    averaging: Averaging | None
    """None without SWALP; its quantizer is that of the recipe's role `average`."""
    swa_finalize: bool
    names: Names

    @property
    def recipe(self) -> Recipe:
        """The first one."""
        return self.phases.at(0)

    @staticmethod
    def of(
        call: str,
        recipe: Recipe | str | Mapping[str, Any] | Phases | None,
        seed: int | None,
        swa_start: int | None,
        swa_cycle: int,
        swa_include_start: bool,
        swa_finalize: bool,
        swa_nonfinite: str,
        model: Any = None,
        exclude: Selection = (),
    ) -> Settings:
        """The settings of the arguments of a call.

        Raises
        ------
        TypeError, ValueError: if an argument is of another type or out of range; if the recipe
            rounds something, but nothing that the call applies.
        """
        phases = _checked(call, recipe, swa_start is not None)
        phases = phases.map(lambda each: each.in_section("optimizer"))
        names = Names.of(model, exclude)
        phases = names.placed(phases)
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
                    phases.at(0).average,
                    drawn,
                    nonfinite=swa_nonfinite,
                )
            return Settings(phases, drawn, averaging, swa_finalize, names)

    def settled(self, variables: Sequence[Any]) -> Settings:
        """The settings for the variables that the optimizer is built with.

        Raises
        ------
        ValueError: if a pattern of the overrides matches nothing.
        """
        names, phases = self.names.settled(self.phases, variables)
        return replace(self, names=names, phases=phases)

    def config(self) -> dict[str, Any]:
        """Plain values, from which `of` makes the same settings."""
        rule = self.averaging
        names, phases = self.names.plain(self.phases)
        return {
            "recipe": (phases if phases.several else phases.at(0)).to_dict(),
            **names,
            "seed": self.seed,
            "swa_start": None if rule is None else rule.start,
            "swa_cycle": 1 if rule is None else rule.cycle,
            "swa_include_start": rule is not None and rule.include_start,
            "swa_finalize": self.swa_finalize,
            "swa_nonfinite": "raise" if rule is None else rule.nonfinite,
        }


def _checked(call: str, given: Any, averages: bool) -> Phases:
    """The phases of an argument, of which one at least rounds something in an optimizer.

    Raises
    ------
    TypeError, ValueError: if it is no recipe and no phases, or rounds nothing there.
    """
    phases = phases_of(given) if call == "QuantizedOptimizer" else None
    if phases is None:
        rounds_average = averages and "average" in recipe_of(given).sections
        recipe = recipe_of(given) if rounds_average else check_section(given, "optimizer", call)
        return Phases({0: recipe})
    recipes = [recipe for _, recipe in phases.recipes]
    if not any(r.allow_empty or "optimizer" in r.sections for r in recipes):
        raise ValueError(f"no recipe of {phases!r} rounds anything in an optimizer")
    return phases


def restored(config: Mapping[str, Any]) -> tuple[dict[str, Any], Names]:
    """The arguments of a saved config, with its recipe, and what that names. It may be empty: that
    was settled when it was saved.
    """
    phases = phases_of(config["recipe"]) or Phases({0: Recipe.from_dict(config["recipe"])})
    phases = phases.map(lambda recipe: replace(recipe, allow_empty=True))
    arguments = {key: value for key, value in config.items() if key not in KEYS}
    recipe = phases if phases.several else phases.at(0)
    return {**arguments, "recipe": recipe}, Names.from_config(config)
