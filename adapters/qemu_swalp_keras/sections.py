"""The recipe of an argument, and which call of this adapter applies which section of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qemu_swalp.training import Phases, Recipe, as_recipe

CALLS = {
    "optimizer": "QuantizedOptimizer or SGD",
    "activations": "quantize_activations",
    "average": "QuantizedOptimizer or SGD with swa_start=",
    "products": "quantize_gemms",
    "elementwise": "quantize_elementwise",
}


def recipe_of(given: Recipe | str | Mapping[str, Any] | None) -> Recipe:
    """The recipe that was given as such, by the name of a preset, as its `to_dict()`, or by None.

    Raises
    ------
    TypeError, ValueError: if it is none of these.
    """
    if given is None:
        return Recipe()
    if isinstance(given, Phases):
        raise TypeError(
            f"recipe must be one recipe for the whole training, got {given!r}; phases are taken by"
            " emulate and QuantizedOptimizer"
        )
    return Recipe.from_dict(given) if isinstance(given, Mapping) else as_recipe(given)


def phases_of(given: Any) -> Phases | None:
    """The phases that were given as such or as their `to_dict()`; None for what is one recipe."""
    if isinstance(given, Mapping) and given and all(str(key).isdigit() for key in given):
        return Phases.from_dict(given)
    return given if isinstance(given, Phases) else None


def check_section(
    given: Recipe | str | Mapping[str, Any] | None, section: str, call: str
) -> Recipe:
    """The recipe of an argument, unless it rounds something but nothing in that section.

    Raises
    ------
    TypeError, ValueError: if it is no recipe.
    ValueError: if the section is empty and another is not; it names the call that applies that.
    """
    recipe = recipe_of(given)
    if recipe.sections:
        try:
            recipe.check_section(section, call, CALLS)
        except ValueError as error:
            shown = given if isinstance(given, str) else recipe.to_dict()
            raise ValueError(f"{error}. Received: recipe={shown!r}") from None
    return recipe
