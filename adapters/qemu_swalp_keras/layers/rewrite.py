"""Rounding of activations and errors on any functional or sequential model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from qemu_swalp.training import Phases, Recipe
from qemu_swalp.training.seeds import seed_for

from .._compat import flat_layers
from ..backend import LOSS_STATE, ROUNDING_STATE, strategy_scope, synchronize
from ..sections import check_section
from .names import check_choice_of_layers, computes_in_float16, placed
from .quantize import Quantize
from .rebuild import Rebuilding, is_graph, walk
from .selection import COMPUTING_LAYERS, Selection, chosen


def quantize_activations(
    model: Any,
    recipe: Recipe | str,
    *,
    layers: Selection = COMPUTING_LAYERS,
    exclude: Selection = (),
    seed: int | None = None,
) -> Any:
    """A model of the same layers, with a `Quantize` after each chosen one.

    a^(l) = Q_A(f_l(a^(l-1))) and e^(l) = Q_E(e^(l)): steps 1 and 2 of algorithm 2 of Yang et al.
    2019. Inputs of the model are left as they are, and so are operations that are no layers
    (`keras.ops.relu`). `Dense(8, "relu")` is one layer: its output is rounded after the
    nonlinearity.

    Parameters
    ----------
    model : functional or sequential, models of these kinds within it included. It stays as it is,
        and shares layers and variables with the new one. What trains the one trains the other, so
        that it is the view of the same weights without rounding.
    recipe : a recipe, or the name of a preset; its roles activation and error count here. The
        output of layer `conv` goes by the name "conv/output" in its overrides; its variables go by
        their paths, which may begin with the model's name, as in "net/conv/kernel". The pattern
        "*conv/*" takes in both.
    layers : which outputs: a layer type, a pattern of layer names (shell style), a predicate (name,
        layer) -> bool, or a sequence of such. A layer of a model within the model is named as in
        "block/conv". Default: `COMPUTING_LAYERS`, the leaf layers that compute new numbers:
        convolution, dense, embedding, normalization, average pooling, nonlinearity.
        `layers=keras.layers.ReLU` is the paper's placement for VGG: after every ReLU, not the
        logits.
    exclude : which of them not, in the same terms, as in exclude="head": the default rounds logits
        too.
    seed : of the random bits, which depend on (seed, role, place of the layer in the model, number
        of its calls in training, or otherwise). None: another one for each call in this process,
        as in `Quantize`.

    Returns
    -------
    model of the same name and kind, not compiled. Its new layers are named as in "conv_quantize".
    It is saved, loaded and cloned as any model; `unquantize_activations` is the inverse.

    Raises
    ------
    TypeError: if the model is neither functional nor sequential; if `recipe` is no recipe; if an
        output's dtype cannot represent the values of the format.
    ValueError: if nothing would be rounded: the recipe has neither role, or no layer is chosen; if
        a pattern of `layers`, `exclude` or of the recipe's `overrides` matches nothing; if
        an output is rounded already; if an output lacks the axis of a block format.

    >>> import keras
    >>> x = keras.layers.Input((2,))
    >>> dense, relu = keras.layers.Dense(4), keras.layers.ReLU(name="relu")
    >>> model = keras.Sequential([x, dense, relu])
    >>> recipe = Recipe(activation="e4m3fn", error="e5m2")
    >>> quantized = quantize_activations(model, recipe, layers=keras.layers.ReLU)
    >>> [layer.name for layer in quantized.layers][1:]
    ['relu', 'relu_quantize']
    """
    _check_model(model)
    recipe = check_section(recipe, "activations", "quantize_activations")
    return in_phases(model, Phases({0: recipe}), layers, exclude, seed)


def in_phases(
    model: Any, phases: Phases, layers: Selection, exclude: Selection, seed: int | None
) -> Any:
    """`quantize_activations` with other roundings from some steps of the optimizer on."""
    check_choice_of_layers(model, "layers", layers, models=keras.Model)
    check_choice_of_layers(model, "exclude", exclude, models=layers)
    phases = phases.map(lambda recipe: placed(model, recipe))
    with seed_for("activations", seed) as drawn, strategy_scope(model):
        sites: dict[int, Quantize] = {}
        scaled = computes_in_float16(model)
        hidden = []
        for place, (name, layer) in enumerate(walk(model), start=1):
            pairs = _pairs(phases, f"{name}/output")
            if not any(map(any, pairs.values())) or chosen(name, layer, exclude):
                continue
            if chosen(name, layer, layers):
                sites[id(layer)] = Quantize(
                    *pairs.pop(0),
                    seed=drawn,
                    place=place,
                    later=pairs,
                    scaled=scaled,
                    name=f"{layer.name}_quantize",
                )
            elif not is_graph(layer) and any(
                chosen(f"{name}/{part.name}", part, layers)
                for part in flat_layers(layer, include_self=False)
            ):
                hidden.append(f"{name} ({type(layer).__name__})")
        recipe = phases.at(0)
        if not sites and not recipe.allow_empty:
            raise ValueError(
                "nothing to round: the recipe must have activation or error, and layers= less"
                f" exclude= must choose a layer of the model; got recipe {recipe.to_dict()},"
                f" layers={layers!r}"
            )
    if hidden:
        warnings.warn(
            f"the outputs of layers inside {', '.join(hidden)} are not rounded; choose these by"
            " layers= to have their own outputs rounded, or exclude them",
            stacklevel=2,
        )
    return Rebuilding(sites).model(model)


def _pairs(phases: Phases, name: str) -> dict[int, tuple[Any, Any]]:
    """First step of each phase → (activation, error) of an output."""
    owns = {step: recipe.of(name) for step, recipe in phases.recipes}
    return {step: (own.activation, own.error) for step, own in owns.items()}


def unquantize_activations(model: Any) -> Any:
    """A model of the same layers without its `Quantize` layers: inverse of `quantize_activations`.

    It shares layers and variables with the given model, and is not compiled.

    Raises
    ------
    TypeError: if the model is neither functional nor sequential.

    >>> import keras
    >>> dense, rounding = keras.layers.Dense(4), Quantize("bf16", place=1)
    >>> model = keras.Sequential([keras.layers.Input((2,)), dense, rounding])
    >>> len(unquantize_activations(model).layers)
    1
    """
    _check_model(model)
    return Rebuilding({}, keep=False).model(model)


@contextmanager
def disabled(model: Any) -> Iterator[Any]:
    """Within it the model computes without rounding of activations, errors and products, as SWALP's
    average is evaluated.

    Model of any kind, whose `Quantize` layers, at any depth, pass their inputs on and count no
    calls, and whose products are in full precision. `fit`, `evaluate` and `predict` follow without
    compiling anew, for `Quantize.enabled` is a variable.

    Eager calls have the bits of a model that does not round. A program of XLA holds both ways, and
    may sum a product in another order: a GRU differs by 6e-8 in JAX's `predict`.

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.layers.Input((1,)), Quantize("fixed<8,1>/nearest_even")])
    >>> model.predict(np.float32([[0.3]]), verbose=0).item()
    0.5
    >>> with disabled(model):
    ...     round(model.predict(np.float32([[0.3]]), verbose=0).item(), 6)
    0.3
    """
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(
            "model must be a Keras model or layer, got "
            f"{type(model).__module__}.{type(model).__qualname__}"
        )
    layers = flat_layers(model)
    sites: list[Any] = [layer for layer in layers if isinstance(layer, Quantize)]
    states = [getattr(x, name, None) for x in layers for name in (ROUNDING_STATE, LOSS_STATE)]
    sites += [state for state in states if state is not None]
    synchronize(model)
    before = [int(site.enabled) for site in sites]
    try:
        for site in sites:
            site.enabled.assign(0)
        yield model
    finally:
        synchronize(model)
        for site, enabled in zip(sites, before, strict=True):
            site.enabled.assign(enabled)


def _check_model(model: Any) -> None:
    if not is_graph(model):
        raise TypeError(
            "model must be functional or sequential, since only there are the calls of layers"
            f" known, got {type(model).__module__}.{type(model).__qualname__}; in a subclassed"
            " model make Quantize(activation, error, place=...) layers in __init__ and call them"
            " in call"
        )
