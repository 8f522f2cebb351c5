"""Models made anew of the layers of others, with layers put in or left out."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import keras
from keras import tree

from .._compat import flat_layers, input_layer_of
from ..backend import strategy_scope
from .quantize import Quantize


class Rebuilding:
    """Rebuilds models from their layers, with `Quantize` layers put after some or left out.

    Parameters
    ----------
    sites : by the id of a layer, the `Quantize` that follows it.
    keep : whether `Quantize` layers of the model stay.
    """

    def __init__(self, sites: dict[int, Quantize], keep: bool = True) -> None:
        self.sites, self.keep = sites, keep
        self.rebuilt: dict[int, Any] = {}
        """By the id of a layer, what stands in its place: itself, or the rebuilt nested model."""
        self.rounded: dict[int, str] = {}
        """By the id of a symbolic output of a site, the name of the layer before it."""

    def model(self, model: Any) -> Any:
        """The rebuilt model, of the same layers and kind.

        Raises
        ------
        ValueError: if an output of a site is rounded already.
        """
        with strategy_scope(model):
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
        if id(layer) not in self.rebuilt:
            self.rebuilt[id(layer)] = self.model(layer) if self._touched(layer) else layer
            if id(layer) in self.sites:
                self.sites[id(self.rebuilt[id(layer)])] = self.sites[id(layer)]
        return self.rebuilt[id(layer)]

    def _touched(self, layer: Any) -> bool:
        """Whether it is a model within which something changes."""
        return is_graph(layer) and any(
            id(part) in self.sites or (isinstance(part, Quantize) and not self.keep)
            for part in flat_layers(layer, include_self=False)
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


def is_graph(model: Any) -> bool:
    """Whether a model is functional or sequential, so that the calls of its layers are known."""
    return isinstance(model, keras.Sequential | keras.Function) and isinstance(model, keras.Model)


def walk(model: Any, prefix: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """(name, layer) of each layer, depth first.

    `Quantize` layers and inputs do not change the order, which gives each layer its index.
    """
    seen = set() if seen is None else seen
    for layer in model.layers:
        if id(layer) in seen or isinstance(layer, Quantize | keras.layers.InputLayer):
            continue
        seen.add(id(layer))
        yield prefix + layer.name, layer
        if is_graph(layer):
            yield from walk(layer, f"{prefix}{layer.name}/", seen)


def _input_like(x: Any) -> Any:
    """A new input layer, like the one that made the symbolic input x."""
    return keras.layers.InputLayer.from_config(input_layer_of(x).get_config())


def _same_kind(model: Any, base: Any, first: str, parts: tuple[Any, ...]) -> Any:
    """A model of the same class, if its __init__ accepts such parts; else of the base class."""
    parameters = list(inspect.signature(type(model).__init__).parameters.values())[1:]
    plain = bool(parameters) and (
        parameters[0].name == first or parameters[0].kind is inspect.Parameter.VAR_POSITIONAL
    )
    frozen = {} if model.trainable else {"trainable": False}
    made = (type(model) if plain else base)(*parts, name=model.name, **frozen)
    made.dtype_policy = model.dtype_policy
    return made


def _rounded_already(name: str) -> ValueError:
    return ValueError(
        f"the output of {name!r} is rounded already; exclude it, or call unquantize_activations"
        " first"
    )
