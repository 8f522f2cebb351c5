"""Where the variables of Keras's layers have their output and input channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from keras import layers

from qemu_swalp.formats.axis_words import Layout
from qemu_swalp.training import Policy
from qemu_swalp.training.layouts import (
    MATRIX,
    TRANSPOSED_MATRIX,
    WHOLE,
    ParameterLayout,
    convolution,
    layout_of,
    live,
    one_layout,
    register_layout,
    resolved_for,
)

from .._compat import ConvLSTMCell, flat_layers, own_trainable_variables

CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
DEPTHWISE = {
    layers.DepthwiseConv1D: "kernel",
    layers.DepthwiseConv2D: "kernel",
    layers.SeparableConv1D: "depthwise_kernel",
    layers.SeparableConv2D: "depthwise_kernel",
}
"""Layers with one input channel to a sum → the name of that kernel."""
PolicyT = TypeVar("PolicyT", bound=Policy)


def layouts_of(variables: Sequence[Any]) -> list[tuple[Layout | None, str]]:
    """Of each variable the layout, by the layers of this process that hold it, and class and name
    of such a layer if none has a layout for it. None and "" where nothing is known, or of vectors.

    Raises
    ------
    ValueError: if layers that share a variable disagree.
    """
    wanted = {id(v) for v in variables if len(v.shape) > 1}
    held: dict[int, list[tuple[str, Layout | None]]] = {}
    for layer in live(layers.Layer) if wanted else ():
        for v in own_trainable_variables(layer):
            if id(v) in wanted:
                layout = layout_of(layer, v.name, tuple(v.shape))
                held.setdefault(id(v), []).append((f"{type(layer).__name__}.{v.name}", layout))
    return [_known(v, held.get(id(v), [])) for v in variables]


def with_layouts(policy: PolicyT, variables: Mapping[str, Any]) -> PolicyT:
    """The policy that knows the layouts of variables, by name, where its quantizer needs them.

    Raises
    ------
    ValueError: if one is not known.
    """
    if policy.quantizer is None or not policy.quantizer.axis_words:
        return policy
    found = layouts_of(list(variables.values()))
    known = {name: layout for name, (layout, _) in zip(variables, found, strict=True) if layout}
    known |= policy.layouts or {}
    for (name, v), (_, holder) in zip(variables.items(), found, strict=True):
        resolved_for(policy.quantizer, f"Variable {name}", tuple(v.shape), known.get(name), holder)
    return replace(policy, layouts=known)


def operand_layouts(model: layers.Layer) -> dict[str, dict[str, int | tuple[int, ...]]]:
    """Which axes of each weight its layer's product sums over and has its outputs along, for
    `qemu_swalp.quantize_state_dict({v.path: v.value for v in model.weights}, format, layouts=…)`:
    so codes are those of the operand that `emulate` rounds.

    Returns
    -------
    paths of the variables → {"sum": axis, "out": axis}. A convolution's blocks run along its input
    channels, at each position of the kernel, of which a depthwise one has one for each output.
    Several axes that the operand counts as one are a tuple, the innermost last, as of `EinsumDense`
    that sums over heads. Transposed convolutions in groups are left out.

    >>> import keras
    >>> conv = keras.layers.Conv2D(4, 3, name="conv")
    >>> model = keras.Sequential([keras.Input((8, 8, 3)), conv], name="net")
    >>> operand_layouts(model)
    {'net/conv/kernel': {'sum': -2, 'out': -1}}
    """
    found: dict[str, dict[str, int | tuple[int, ...]]] = {}
    for layer in flat_layers(model):
        for v in own_trainable_variables(layer):
            axes = _operand_axes(layer, v.name, tuple(v.shape)) if len(v.shape) > 1 else None
            if axes is not None:
                found[v.path] = axes
    return found


def _operand_axes(
    layer: Any, name: str, shape: tuple[int, ...]
) -> dict[str, int | tuple[int, ...]] | None:
    rule = layout_of(layer, name, shape) or {}
    if name == "kernel" and isinstance(layer, layers.EinsumDense):
        return _of_einsum(layer.equation)
    if len(shape) == 2:
        summed, out = rule.get("sum"), rule.get("out")
        return {"sum": summed, "out": out} if type(summed) is type(out) is int else None
    if name == "pointwise_kernel" or (name == "kernel" and isinstance(layer, CONVOLUTIONS)):
        return {"sum": -2, "out": -1}
    if name == DEPTHWISE.get(type(layer)):
        return {"sum": -1, "out": -2} if shape[-1] == 1 else {"sum": (), "out": (-2, -1)}
    if name == "kernel" and isinstance(layer, TRANSPOSED):
        return {"sum": -1, "out": -2}
    return None


def _known(v: Any, holders: list[tuple[str, Layout | None]]) -> tuple[Layout | None, str]:
    known = [(holder, layout) for holder, layout in holders if layout is not None]
    if not known:
        return None, holders[0][0] if holders else ""
    return one_layout(f"Variable {getattr(v, 'path', v.name)}", known), ""


def _convolution(layer: Any, shape: tuple[int, ...]) -> Layout:
    return convolution(shape, getattr(layer, "groups", 1), out=len(shape) - 1, in_=len(shape) - 2)


def _transposed(layer: Any, shape: tuple[int, ...]) -> Layout:
    return convolution(shape, 1, out=len(shape) - 2, in_=len(shape) - 1)


def _depthwise(layer: Any, shape: tuple[int, ...]) -> Layout:
    """Input channel and multiplier, counted together, are the output channel."""
    return {"out": (-2, -1), "in": -2, "sum": tuple(range(len(shape) - 2))}


def _einsum(layer: Any, shape: tuple[int, ...]) -> Layout:
    """By the equation: what the kernel shares with the output counts output channels, what it
    shares with the input counts input channels, and what is in the input alone is summed over.
    """
    operands, output = layer.equation.replace(" ", "").split("->")
    x, kernel = operands.split(",")
    return {
        "out": tuple(axis for axis, label in enumerate(kernel) if label in output),
        "in": tuple(axis for axis, label in enumerate(kernel) if label in x),
        "sum": tuple(
            axis for axis, label in enumerate(kernel) if label in x and label not in output
        ),
    }


def _of_einsum(equation: str) -> dict[str, int | tuple[int, ...]]:
    """Axes of the kernel, in the order of `products.einsum`: the sum's as the input has them."""
    operands, output = equation.replace(" ", "").split("->")
    x, kernel = operands.split(",")
    axes = {
        "sum": tuple(kernel.index(c) for c in x if c in kernel and c not in output),
        "out": tuple(axis for axis, c in enumerate(kernel) if c not in x),
    }
    return {word: found[0] if len(found) == 1 else found for word, found in axes.items()}


LORA: dict[str, ParameterLayout] = {
    "lora_*_a": _convolution,
    "lora_*_b": TRANSPOSED_MATRIX,
}
"""Both matrices of a low-rank update have their outputs along the last axis."""

VECTORS: Layout = {"out": 0, "in": 0, "sum": 0}
"""Several vectors, one under the other: each is one block."""

RECURRENT: dict[str, ParameterLayout] = {
    "kernel": TRANSPOSED_MATRIX,
    "recurrent_kernel": TRANSPOSED_MATRIX,
    "bias": VECTORS,
}

BUILT_IN: dict[type[layers.Layer], dict[str, ParameterLayout]] = {
    layers.Dense: {"kernel": TRANSPOSED_MATRIX, **LORA},
    layers.EinsumDense: {"kernel": _einsum, "bias": WHOLE, **LORA},
    layers.Conv1D: {"kernel": _convolution, **LORA},
    layers.Conv2D: {"kernel": _convolution, **LORA},
    layers.Conv3D: {"kernel": _convolution, **LORA},
    layers.Conv1DTranspose: {"kernel": _transposed},
    layers.Conv2DTranspose: {"kernel": _transposed},
    layers.Conv3DTranspose: {"kernel": _transposed},
    layers.DepthwiseConv1D: {"kernel": _depthwise},
    layers.DepthwiseConv2D: {"kernel": _depthwise},
    layers.SeparableConv1D: {"depthwise_kernel": _depthwise, "pointwise_kernel": _convolution},
    layers.SeparableConv2D: {"depthwise_kernel": _depthwise, "pointwise_kernel": _convolution},
    layers.SimpleRNNCell: RECURRENT,
    layers.LSTMCell: RECURRENT,
    layers.GRUCell: RECURRENT,
    ConvLSTMCell: {"kernel": _convolution, "recurrent_kernel": _convolution},
    layers.Embedding: {
        "embeddings": MATRIX,
        "reverse_embeddings": TRANSPOSED_MATRIX,
        "lora_embeddings_a": MATRIX,
        "lora_embeddings_b": TRANSPOSED_MATRIX,
    },
    layers.BatchNormalization: {"*": WHOLE},
    layers.GroupNormalization: {"*": WHOLE},
    layers.LayerNormalization: {"*": WHOLE},
    layers.RMSNormalization: {"*": WHOLE},
    layers.PReLU: {"*": WHOLE},
}
"""Of an embedding each row is what a lookup gives: as in the output layer that often shares it,
the rows are its output channels.
"""

for kind, parameters in BUILT_IN.items():
    register_layout(kind, parameters)
