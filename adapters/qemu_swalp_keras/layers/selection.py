"""Choosing layers of a model by type, name or predicate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from keras import layers

from qemu_swalp.training import selection

Selection: TypeAlias = "type[Any] | str | Callable[[str, Any], bool] | Sequence[Selection]"
"""A layer type, a pattern of names, a predicate (name, layer) -> bool, or several of these."""

COMPUTING_LAYERS: tuple[type[Any], ...] = (
    layers.Dense,
    layers.EinsumDense,
    layers.Embedding,
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
    layers.BatchNormalization,
    layers.LayerNormalization,
    layers.GroupNormalization,
    layers.RMSNormalization,
    layers.UnitNormalization,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.AdaptiveAveragePooling1D,
    layers.AdaptiveAveragePooling2D,
    layers.AdaptiveAveragePooling3D,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
    layers.Activation,
    layers.ELU,
    layers.LeakyReLU,
    layers.PReLU,
    layers.ReLU,
    layers.Softmax,
)
"""Leaf layers whose outputs are new numbers. They are not those that choose, move, drop or add some
(max pooling, padding, dropout, `Add`), nor those made of other layers (recurrent ones, attention,
wrappers).
"""


def chosen(name: str, layer: Any, choice: Selection) -> bool:
    """Whether a layer is among those selected.

    Raises
    ------
    TypeError: if `choice` is not a `Selection`.
    """
    return selection.chosen(name, layer, choice, layers.Layer, "layer")


def patterns_in(selection: Selection) -> Iterator[str]:
    """The patterns of names in a selection."""
    if isinstance(selection, str):
        yield selection
    elif isinstance(selection, list | tuple):
        for part in selection:
            yield from patterns_in(part)
