"""Where the parameters of a layer have their output and input channels, by the layer's class."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from ..formats.axis_words import VECTOR, Axis, Layout, checked_layout
from ..ops.quantizer import Quantizer
from .recipe import Recipe

ParameterLayout = Layout | Callable[[Any, tuple[int, ...]], Layout]
"""A layout, or a function of (layer, shape of the parameter) that gives it."""

MATRIX: Layout = {"out": 0, "in": 1, "sum": 1}
"""(out, in): a product with the transposed matrix."""

TRANSPOSED_MATRIX: Layout = {"out": 1, "in": 0, "sum": 0}
"""(in, out): a product with the matrix itself."""

WHOLE: Layout = {"out": (), "in": (), "sum": ()}
"""A parameter of elementwise factors or terms: like a vector it is one block, in any shape."""

_REGISTERED: WeakKeyDictionary[type, dict[str, ParameterLayout]] = WeakKeyDictionary()

LayerT = TypeVar("LayerT")
RuleT = TypeVar("RuleT", Recipe, Quantizer)


def register_layout(layer: type, parameters: Mapping[str, ParameterLayout]) -> None:
    """Tell where the parameters of a class of layers have their channels, for recipes that name
    axes by words.

    Parameters
    ----------
    layer : a class of `torch.nn.Module` or `keras.layers.Layer`. Subclasses have its layouts, where
        nothing else is registered for them.
    parameters : name of the parameter in the layer (shell-style patterns, the first that matches) →
        {word: axis}, as in `Format.resolve`; or a function of (layer, shape) that returns it.
        Layouts registered before for the same class go on for other names.

    Raises
    ------
    TypeError, ValueError: if `layer` is not a class or a layout is not of that form.

    >>> class Experts:
    ...     pass
    >>> register_layout(Experts, {"weight": {"out": (0, 2), "in": (0, 1)}})
    >>> layout_of(Experts(), "weight", (8, 64, 32))
    {'out': (0, 2), 'in': (0, 1)}
    """
    if not isinstance(layer, type):
        raise TypeError(f"layer must be a class of layers, got {layer!r}")
    for layout in parameters.values():
        if not callable(layout):
            checked_layout(layout, {})
    earlier = _REGISTERED.get(layer, {})
    _REGISTERED[layer] = {**parameters, **{n: v for n, v in earlier.items() if n not in parameters}}


def layout_of(layer: object, name: str, shape: tuple[int, ...]) -> Layout | None:
    """The layout of a layer's parameter; None where none is registered."""
    for kind in type(layer).__mro__:
        for pattern, layout in _REGISTERED.get(kind, {}).items():
            if fnmatchcase(name, pattern):
                return layout(layer, shape) if callable(layout) else layout
    return None


def live(kind: type[LayerT]) -> list[LayerT]:
    """All objects of a class in this process: where a parameter alone is known, its layer is among
    them.
    """
    objects = gc.get_objects()
    kinds = {each for each in set(map(type, objects)) if issubclass(each, kind)}
    return [each for each in objects if type(each) in kinds]


def one_layout(label: str, layouts: Iterable[tuple[str, Layout]]) -> Layout | None:
    """The layout of a parameter that one or more layers hold; None if there is none.

    ValueError if layers that share it disagree.
    """
    known = {str(checked_layout(layout, {})): (holder, layout) for holder, layout in layouts}
    if len(known) > 1:
        raise ValueError(
            f"{label} is shared by layers of different layouts, "
            + " and ".join(f"{holder}: {layout}" for holder, layout in known.values())
            + "; give its axes by number, by an override of the recipe"
        )
    return next((layout for _, layout in known.values()), None)


def resolved_for(
    rule: RuleT, label: str, shape: tuple[int, ...], layout: Layout | None, holder: str = ""
) -> RuleT:
    """A quantizer, or recipe without overrides, with numbers for the words among its axes, for one
    parameter.

    Parameters
    ----------
    label : the parameter's name, for errors.
    shape : of the parameter. A vector is one block whatever its layout.
    layout : None where it is not known.
    holder : what is known of the layer that holds the parameter, for errors, as in
        "Experts.weight".

    Raises
    ------
    ValueError: if there are words, and the layout is not known or lacks them.
    """
    words = rule.axis_words
    if not words:
        return rule
    if len(shape) < 2:
        layout = VECTOR
    if layout is None:
        what = "recipe" if isinstance(rule, Recipe) else "quantizer"
        why, remedy = ", since no layer holds it", "give"
        if holder:
            kind, _, name = holder.rpartition(".")
            layouts = f"{kind}, {{{name!r}: {{'out': 0, 'in': 1}}}}"
            why = f" of {holder}"
            remedy = f"tell it by qemu_swalp.training.register_layout({layouts}), or give"
        raise ValueError(
            f"{label}, of shape {shape}: the {what} names axes by the word"
            f" {', '.join(map(repr, words))}, and no layout is known{why}; {remedy} the numbers, as"
            f" in {what}.resolve(out=0), to all parameters or, by an override, to this one"
        )
    try:
        return rule.resolve(layout)
    except ValueError as error:
        raise ValueError(f"{label}: {error}; or give it another recipe by an override") from error


def convolution(shape: tuple[int, ...], groups: int, out: int, in_: int) -> Layout:
    """Of a kernel in which axis `in_` counts the input channels of a group, and axis `out` all
    output channels.
    """
    inside = tuple(axis for axis in range(len(shape)) if axis != out)
    layout: dict[str, Axis] = {"out": out, "in": in_, "sum": inside}
    if groups > 1:
        layout["in"] = _by_group(shape, groups, counted=in_, split=out)
    return layout


def transposed_convolution(shape: tuple[int, ...], groups: int, out: int, in_: int) -> Layout:
    """Of a kernel in which axis `out` counts the output channels of a group, and axis `in_` all
    input channels.
    """
    if groups == 1:
        return convolution(shape, 1, out, in_)
    return {"out": _by_group(shape, groups, counted=out, split=in_), "in": in_}


def _by_group(shape: tuple[int, ...], groups: int, counted: int, split: int) -> dict[int, int]:
    """A channel: one index of the axis that counts those of a group, in one group of the other."""
    runs = {axis: max(length, 1) for axis, length in enumerate(shape)}
    return {**runs, counted: 1, split: max(shape[split] // groups, 1)}
