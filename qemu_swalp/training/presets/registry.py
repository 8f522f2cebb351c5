"""Presets by name: the built-in ones and the user's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from ..._util.checks import check_choice
from ..recipe import Recipe
from ..roles import KINDS as KINDS

Preset = TypeVar("Preset", bound=Callable[..., Recipe])

_PRESETS: dict[str, Callable[..., Recipe]] = {}


def recipe(name: str, **options: Any) -> Recipe:
    """The preset of that name.

    Parameters
    ----------
    options : what its source leaves open, as its docstring tells; all have defaults.

    Raises
    ------
    ValueError: if the name is not one of `recipe_names()`; it suggests the nearest. TypeError: if
        the preset has no such option; it lists those that it has.

    >>> recipe("mxfp8").quantizer("wgrad.error").format.size
    32
    >>> str(recipe("mxfp4", hadamard=32).transform("dgrad"))
    'hadamard<32,signs=random>'
    """
    check_choice("the name of a recipe", name, recipe_names())
    known = inspect.signature(_PRESETS[name]).parameters
    for option in options:
        if option not in known:
            raise TypeError(
                f"the recipe {name!r} has no option {option!r}; it has {', '.join(known) or 'none'}"
            )
    return _PRESETS[name](**options)


def recipe_names() -> tuple[str, ...]:
    """Names of all presets: the built-in ones, then those registered."""
    return tuple(_PRESETS)


def register_recipe(name: str, recipe: Recipe) -> Recipe:
    """Give a recipe a name, by which every call that accepts a recipe finds it. Returns the recipe.

    TypeError if `name` is not a string or `recipe` not a Recipe. ValueError if the name stands for
    another recipe already.
    """
    if not isinstance(recipe, Recipe) or not isinstance(name, str):
        raise TypeError(
            "register_recipe needs a name, which is a string, and a Recipe, got"
            f" {name!r} and {recipe!r}"
        )
    if name in _PRESETS and _PRESETS[name]() != recipe:
        raise ValueError(f"the name {name!r} stands for another recipe already; choose another")
    _PRESETS.setdefault(name, lambda: recipe)
    return recipe


def as_recipe(recipe: Recipe | str) -> Recipe:
    """The recipe itself, or the preset of that name.

    TypeError if it is neither a Recipe nor a string. ValueError if no preset has that name.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, str) and recipe in _PRESETS:
        return _PRESETS[recipe]()
    kind = ValueError if isinstance(recipe, str) else TypeError
    raise kind(
        "recipe must be a qemu_swalp.training.Recipe, such as swalp(8) or Recipe(weight='bfp8'),"
        f" or the name of a preset, one of {', '.join(recipe_names())}; got {recipe!r}"
    )


def in_float(layers: str | None) -> dict[str, Recipe | None]:
    """Overrides that leave the layers of a pattern or position in float, if there is one."""
    return {} if layers is None else {layers: None}


def preset(function: Preset) -> Preset:
    """Decorator: a function that makes a recipe, by its own name."""
    _PRESETS[function.__name__] = function
    return function
