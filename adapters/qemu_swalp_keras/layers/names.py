"""The names of a model's layers, and the patterns that must match one of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from qemu_swalp._util.checks import check_patterns
from qemu_swalp.training import Recipe
from qemu_swalp.training.positions import literal

from .._compat import sublayers
from .rebuild import is_graph, walk
from .selection import Selection, chosen, patterns_in

ENDS = ("output", "operands", "elementwise")
"""What an override may name of a layer: what it gives, what its products take, what it computes
element by element.
"""

LOSS = "loss"
"""The name by which recipes and `exclude` know what `compute_loss` of a model computes."""


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


def sites(model: Any) -> Iterator[tuple[str, Any]]:
    """(name, layer or model) of what is given a policy: owners, and after them the functional
    models that compute outside of their layers, "" for the model itself; at last the model that
    does not, for its loss.
    """
    yield from owners(model)
    if is_graph(model):
        parts = [("", model), *_models(model)]
        yield from ((name, part) for name, part in parts if computes_itself(part))
        if not computes_itself(model):
            yield "", model


def computes_itself(layer: Any) -> bool:
    """Whether a layer or model computes anything outside of the layers that its graph calls."""
    if not is_graph(layer):
        return True
    operations = layer.operations if isinstance(layer, keras.Function) else ()
    return any(not isinstance(operation, keras.layers.Layer) for operation in operations)


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
    names += [LOSS] if isinstance(model, keras.Model) else []
    check_patterns(argument, patterns_in(choice), names)


def placed(model: Any, recipe: Recipe) -> Recipe:
    """The recipe with names for positions among its overrides, whose patterns all match.

    A layer at a position is one, and no embedding, that has a variable of two or more dimensions of
    its own.

    Raises
    ------
    ValueError: if a pattern matches no name that the recipe may be asked about by any call: those
        of variables, and of what layers and models within it give and take; if there is no layer
        at a position; if there are positions, and a layer is not built.
    """
    if recipe.has_positions:
        recipe = recipe.at_layers(_weighted(model))
    _check_overrides(model, recipe)
    return recipe


def _weighted(model: Any) -> dict[str, list[str]]:
    """Name of each layer with a matrix of its own → patterns of all that belongs to it."""
    found = {}
    for name, layer in named_layers(model):
        if not layer.built:
            raise ValueError(
                f"the layer {name!r} is not built, and the recipe names layers by position; call"
                " model.build(input_shape) first"
            )
        others = {id(v) for part in sublayers(layer) for v in part.variables}
        own = [v for v in layer.variables if id(v) not in others]
        embeds = isinstance(layer, keras.layers.Embedding)
        if not embeds and any(len(v.shape) > 1 for v in own):
            found[name] = [f"{literal(name)}/*", *(literal(v.path) for v in own)]
    return found


def _check_overrides(model: Any, recipe: Recipe) -> None:
    layers = [*named_layers(model), *_models(model), (model.name, model)]
    names = [v.path for v in model.variables]
    names += [f"{name}/{end}" for name in (*(name for name, _ in layers), LOSS) for end in ENDS]
    if not is_built(model):
        # Variables that are not made yet have no names: a pattern of one is not judged.
        names += [p for p, _ in recipe.overrides if p.rpartition("/")[2] not in ENDS]
    recipe.check_patterns(names)


def computes_in_float16(model: Any) -> bool:
    """Whether a layer of a model does, so that its loss is scaled."""
    return any(layer.compute_dtype == "float16" for _, layer in named_layers(model))


def is_built(model: Any) -> bool:
    """Whether a model and all layers and models within it have their variables."""
    parts = [*named_layers(model), *_models(model)]
    return bool(model.built) and all(layer.built for _, layer in parts)


def _models(model: Any) -> list[tuple[str, Any]]:
    """(name, model) of each functional or sequential model within one."""
    return [each for each in walk(model) if is_graph(each[1])] if is_graph(model) else []
