"""Rounding of activations and errors on any functional or sequential model."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras import tree

from qemu_swalp._util.checks import check_int
from qemu_swalp.training import Recipe

from .quantize import Quantize
from .selection import COMPUTING_LAYERS, Selection, chosen


def quantize_activations(
    model: Any,
    recipe: Recipe,
    *,
    layers: Selection = COMPUTING_LAYERS,
    exclude: Selection = (),
    seed: int = 0,
) -> Any:
    """A model of the same layers, with a `Quantize` after each chosen one.

    a^(l) = Q_A(f_l(a^(l-1))) and e^(l) = Q_E(e^(l)): steps 1 and 2 of algorithm 2 of Yang et al.
    2019. Inputs of the model are left as they are, and so are operations that are no layers
    (`keras.ops.relu`). `Dense(8, "relu")` is one layer: its output is rounded after the
    nonlinearity.

    Parameters
    ----------
    model : functional or sequential, models of these kinds within it included. It stays as it is,
        and shares layers and variables with the new one: what trains the one trains the other, so
        that it is the view of the same weights without rounding.
    recipe : its roles activation and error count here. The output of layer `conv` goes by the name
        "conv/output" in its overrides; its variables go by their paths, which may begin with the
        model's name, as in "net/conv/kernel": the pattern "*conv/*" takes in both.
    layers : which outputs: a layer type, a pattern of layer names (shell style), a predicate (name,
        layer) -> bool, or a sequence of such. A layer of a model within the model is named as in
        "block/conv". Default: `COMPUTING_LAYERS`, the leaf layers that compute new numbers:
        convolution, dense, embedding, normalization, average pooling, nonlinearity.
        `layers=keras.layers.ReLU` is the paper's placement for VGG: after every ReLU, not the
        logits.
    exclude : which of them not, in the same terms, as in exclude="head": the default rounds logits
        too.
    seed : of the random bits, which depend on (seed, role, place of the layer in the model, number
        of its calls).

    Returns
    -------
    model of the same name and kind, not compiled. Its new layers are named as in "conv_quantize".
    It is saved, loaded and cloned as any model; `unquantize_activations` is the inverse.

    Raises
    ------
    TypeError : no functional or sequential model, no recipe; a dtype that cannot hold the format.
    ValueError : nothing to round: no such role, no such layer; outputs rounded already; a block
        axis that an output lacks.

    >>> import keras
    >>> model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(4), keras.layers.ReLU(name="relu")])
    >>> quantized = quantize_activations(model, Recipe(activation="e4m3fn", error="e5m2"), layers=keras.layers.ReLU)
    >>> [layer.name for layer in quantized.layers][1:]
    ['relu', 'relu_quantize']
    """
    _check_model(model)
    if not isinstance(recipe, Recipe):
        raise TypeError(
            "recipe must be a qemu_swalp.training.Recipe, such as swalp(8) or"
            f" Recipe(activation='bfp8'), got {recipe!r}"
        )
    check_int("seed", seed, 0, 2**64 - 1)
    sites: dict[int, Quantize] = {}
    hidden = []
    for place, (name, layer) in enumerate(_walk(model), start=1):
        own = recipe.of(f"{name}/output")
        if not (own.activation or own.error) or chosen(name, layer, exclude):
            continue
        if chosen(name, layer, layers):
            sites[id(layer)] = Quantize(
                own.activation, own.error, seed=seed, place=place, name=f"{layer.name}_quantize"
            )
        elif not _is_graph(layer) and any(
            chosen(f"{name}/{part.name}", part, layers)
            for part in layer._flatten_layers(include_self=False)
        ):
            hidden.append(f"{name} ({type(layer).__name__})")
    if not sites and not recipe.allow_empty:
        raise ValueError(
            "nothing to round: the recipe must have activation or error, and layers= less exclude="
            f" must choose a layer of the model; got recipe {recipe.to_dict()}, layers={layers!r}"
        )
    if hidden:
        warnings.warn(
            f"the outputs of layers inside {', '.join(hidden)} are not rounded; choose these by"
            " layers= to have their own outputs rounded, or exclude them",
            stacklevel=2,
        )
    return _Rebuilding(sites).model(model)


def unquantize_activations(model: Any) -> Any:
    """A model of the same layers without its `Quantize` layers: inverse of `quantize_activations`.

    It shares layers and variables with the given model, and is not compiled. TypeError unless the
    model is functional or sequential.

    >>> import keras
    >>> model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(4), Quantize("bf16", place=1)])
    >>> len(unquantize_activations(model).layers)
    1
    """
    _check_model(model)
    return _Rebuilding({}, keep=False).model(model)


@contextmanager
def disabled(model: Any) -> Iterator[Any]:
    """Within it the model computes without rounding of activations and errors, as SWALP's average
    is evaluated.

    Model of any kind, whose `Quantize` layers, at any depth, pass their inputs on and count no
    calls. `fit`, `evaluate` and `predict` follow without compiling anew, for `Quantize.enabled` is
    a variable.

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
    sites = [layer for layer in model._flatten_layers() if isinstance(layer, Quantize)]
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


def synchronize(model: Any) -> None:
    """Let a model's variables hold their values: on JAX, in a callback of `fit`, they do not by
    themselves.
    """
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()


class _Rebuilding:
    """Makes models of the layers of others: with sites put after layers, or with `Quantize` layers
    left out.
    """

    def __init__(self, sites: dict[int, Quantize], keep: bool = True) -> None:
        self.sites, self.keep = sites, keep
        self.made: dict[int, Any] = {}
        """By the id of each layer, what stands for it: itself, or a model within the model made
        anew.
        """
        self.rounded: dict[int, str] = {}
        """By the id of each symbolic output of a site, the layer before."""

    def model(self, model: Any) -> Any:
        return (
            self._sequential(model)
            if isinstance(model, keras.Sequential)
            else self._functional(model)
        )

    def _functional(self, model: Any) -> Any:
        # A shell of the same graph, since clone_model compiles the clone of a compiled model.
        shell = keras.Model(model.input, model.output, name=model.name)
        inputs = tree.map_structure(lambda x: _input_like(x).output, model.input)
        clone = keras.models.clone_model(
            shell, inputs, clone_function=self._layer, call_function=self._call
        )
        return _same_kind(model, keras.Model, "inputs", (clone.input, clone.output))

    def _sequential(self, model: Any) -> Any:
        layers = [_input_like(x) for x in (model.inputs if model.built else ())]
        before: Any = None
        for layer in model.layers:
            if isinstance(layer, Quantize):
                if id(before) in self.sites:
                    raise _rounded_already(before.name)
                if not self.keep:
                    continue
            layers.append(self._layer(layer))
            if id(layer) in self.sites:
                layers.append(self.sites[id(layer)])
            before = layer
        return _same_kind(model, keras.Sequential, "layers", (layers,))

    def _layer(self, layer: Any) -> Any:
        if id(layer) not in self.made:
            self.made[id(layer)] = self.model(layer) if self._touched(layer) else layer
            if id(layer) in self.sites:
                self.sites[id(self.made[id(layer)])] = self.sites[id(layer)]
        return self.made[id(layer)]

    def _touched(self, layer: Any) -> bool:
        """Whether it is a model within which something changes."""
        return _is_graph(layer) and any(
            id(part) in self.sites or (isinstance(part, Quantize) and not self.keep)
            for part in layer._flatten_layers(include_self=False)
        )

    def _call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer, Quantize):
            for x in tree.flatten(args[0]):
                if id(x) in self.rounded:
                    raise _rounded_already(self.rounded[id(x)])
            return layer(*args, **kwargs) if self.keep else args[0]
        outputs = layer(*args, **kwargs)
        if id(layer) in self.sites:
            outputs = self.sites[id(layer)](outputs)
            self.rounded.update((id(x), layer.name) for x in tree.flatten(outputs))
        return outputs


def _check_model(model: Any) -> None:
    if not _is_graph(model):
        raise TypeError(
            "model must be functional or sequential, since only there are the calls of layers"
            f" known, got {type(model).__module__}.{type(model).__qualname__}; in a subclassed"
            " model make Quantize(activation, error, place=...) layers in __init__ and call them"
            " in call"
        )


def _is_graph(model: Any) -> bool:
    return isinstance(model, keras.Sequential | keras.Function) and isinstance(model, keras.Model)


def _walk(model: Any, prefix: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """(name, layer) of each layer, and after a model within the model of its layers, in an order
    that `Quantize` layers and inputs do not change.
    """
    seen = set() if seen is None else seen
    for layer in model.layers:
        if id(layer) in seen or isinstance(layer, Quantize | keras.layers.InputLayer):
            continue
        seen.add(id(layer))
        yield prefix + layer.name, layer
        if _is_graph(layer):
            yield from _walk(layer, f"{prefix}{layer.name}/", seen)


def _input_like(x: Any) -> Any:
    """A new input layer, like the one that made the symbolic input x."""
    return keras.layers.InputLayer.from_config(x._keras_history.operation.get_config())


def _same_kind(model: Any, base: Any, first: str, parts: tuple[Any, ...]) -> Any:
    """A model of the given one's class, where that is made of such parts, else of the base."""
    made_of = list(inspect.signature(type(model).__init__).parameters.values())[1:]
    plain = bool(made_of) and (
        made_of[0].name == first or made_of[0].kind is inspect.Parameter.VAR_POSITIONAL
    )
    frozen = {} if model.trainable else {"trainable": False}
    return (type(model) if plain else base)(*parts, name=model.name, **frozen)


def _rounded_already(name: str) -> ValueError:
    return ValueError(
        f"the output of {name!r} is rounded already; exclude it, or call unquantize_activations"
        " first"
    )
