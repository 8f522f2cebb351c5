"""The names of a model's layers, and the patterns that must match one of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from qemu_swalp._util.checks import check_patterns
from qemu_swalp.training import Recipe

from .._compat import sublayers
from .rebuild import is_graph, walk
from .selection import Selection, chosen, patterns_in

ENDS = ("output", "operands")
"""What an override may name of a layer: what it gives, what its products take."""


def owners(model: Any) -> Iterator[tuple[str, Any]]:
    """(name, layer) of the layers that have a policy of their own: those that a functional or
    sequential model, whose config holds no policy, calls; or the model itself.
    """
    if not is_graph(model):
        yield "", model
        return
    for name, layer in walk(model):
        if not is_graph(layer):
            yield name, layer


def named_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """(name, layer) of all layers, those within others too."""
    for path, layer in owners(model):
        yield path or layer.name, layer
        yield from _within(path, layer)


def _within(path: str, layer: Any) -> Iterator[tuple[str, Any]]:
    for part in sublayers(layer):
        name = f"{path}/{part.name}" if path else part.name
        yield name, part
        yield from _within(name, part)


def check_choice_of_layers(
    model: Any, argument: str, choice: Selection, models: Selection = ()
) -> None:
    """Raise ValueError if a pattern of a selection matches no layer.

    models : which models within it count as layers, beside those that they are made of.
    """
    names = [name for name, _ in named_layers(model)]
    names += [name for name, part in _models(model) if chosen(name, part, models)]
    check_patterns(argument, patterns_in(choice), names)


def check_overrides(model: Any, recipe: Recipe) -> None:
    """Raise ValueError if a pattern of the overrides matches no name that the recipe may be asked
    about by any call: those of variables, and of what layers and models within it give and take.
    """
    layers = [*named_layers(model), *_models(model)]
    names = [v.path for v in model.variables]
    names += [f"{name}/{end}" for name, _ in layers for end in ENDS]
    if not (model.built and all(layer.built for _, layer in layers)):
        # Variables that are not made yet have no names: a pattern of one is not judged.
        names += [p for p, _ in recipe.overrides if p.rpartition("/")[2] not in ENDS]
    recipe.check_patterns(names)


def _models(model: Any) -> list[tuple[str, Any]]:
    """(name, model) of each functional or sequential model within one."""
    return [each for each in walk(model) if is_graph(each[1])] if is_graph(model) else []
