"""Where the parameters of PyTorch's modules have their output and input channels."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from qemu_swalp.formats.axis_words import Layout
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
    transposed_convolution,
)

from .._compat import ConvNd, ConvTransposeNd

REPARAMETRIZED = ("_g", "_v", "_orig")
"""What `weight_norm`, `spectral_norm` and pruning append to the name of a weight."""


def layouts_of(parameters: Sequence[Tensor], modules: Iterable[nn.Module] = ()) -> list[str]:
    """What is known of the layout of each parameter, as strings that a checkpoint can hold: see
    `layout_from`.

    Parameters
    ----------
    modules : where the parameters are looked for first; then among all modules of this process.

    Raises
    ------
    ValueError: if layers that share a parameter disagree.
    """
    wanted = {id(p): p for p in parameters if p.ndim > 1}
    found: dict[int, list[tuple[str, Layout | None]]] = {}
    for given in (True, False):
        missing = wanted.keys() - found.keys()
        for owner, name, p in _held(modules if given else live(nn.Module)) if missing else ():
            if id(p) in missing:
                layout = _layout(owner, name, tuple(p.shape))
                found.setdefault(id(p), []).append((f"{type(owner).__name__}.{name}", layout))
    return [_text(p, found.get(id(p), [])) for p in parameters]


def _text(p: Tensor, holders: list[tuple[str, Layout | None]]) -> str:
    known = [(holder, layout) for holder, layout in holders if layout is not None]
    label = f"the parameter {known[0][0]} of shape {tuple(p.shape)}" if known else ""
    layout = one_layout(label, known)
    if layout is not None:
        return json.dumps(layout)
    return holders[0][0] if holders else ""


def layout_from(text: str) -> tuple[Layout | None, str]:
    """(layout, None if unknown; class and name of the module that holds the parameter, "" if
    unknown).
    """
    if not text.startswith("{"):
        return None, text
    plain: dict[str, Any] = json.loads(text)
    return {word: _axis(axis) for word, axis in plain.items()}, ""


def operand_layouts(model: nn.Module) -> dict[str, dict[str, int]]:
    """Which axes of each weight its layer's product sums over and has its outputs along, for
    `qemu_swalp.quantize_state_dict(model.state_dict(), format, layouts=…)`: so codes are those of
    the operand that `emulate` rounds.

    Returns
    -------
    names of the state dict → {"sum": axis, "out": axis}. A convolution's blocks run along its input
    channels, at each position of the kernel. Parameters of several such axes, and transposed
    convolutions in groups, whose blocks would reach over these, are left out.

    >>> operand_layouts(nn.Sequential(nn.Conv2d(8, 4, 3), nn.Linear(4, 2)))
    {'0.weight': {'sum': 1, 'out': 0}, '1.weight': {'sum': 1, 'out': 0}}
    """
    found: dict[str, dict[str, int]] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, p in module.named_parameters(recurse=False, remove_duplicate=False):
            axes = operand_axes(module, name, tuple(p.shape)) if p.ndim > 1 else None
            if axes is not None:
                found[f"{prefix}.{name}" if prefix else name] = axes
    return found


def operand_axes(module: Any, name: str, shape: tuple[int, ...]) -> dict[str, int] | None:
    """{"sum": axis, "out": axis} of a parameter of a module; None where no one axis is either."""
    if isinstance(module, ConvTransposeNd) and name == "weight":
        return {"sum": 0, "out": 1} if module.groups == 1 else None
    if isinstance(module, ConvNd) and name == "weight":
        return {"sum": 1, "out": 0}
    layout = _layout(module, name, shape) or {}
    summed, out = layout.get("sum"), layout.get("out")
    return {"sum": summed, "out": out} if type(summed) is type(out) is int else None


def _axis(plain: Any) -> Any:
    """JSON's keys are strings, and its sequences lists."""
    if isinstance(plain, dict):
        return {int(axis): length for axis, length in plain.items()}
    return tuple(plain) if isinstance(plain, list) else plain


def _held(modules: Iterable[nn.Module]) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """(module, name, parameter) of all parameters; what a parametrization computes a weight from
    goes by the weight's name.
    """
    for module in modules:
        if "_parameters" not in module.__dict__:  # not initialized
            continue
        for name, p in module.named_parameters(recurse=False):
            yield module, name, p
        if is_parametrized(module):
            chains: Any = module.parametrizations
            for name, chain in chains.items():
                for original, p in chain.named_parameters(recurse=False):
                    if original.startswith("original"):
                        yield module, name, p


def _layout(module: nn.Module, name: str, shape: tuple[int, ...]) -> Layout | None:
    plain = next((name.removesuffix(end) for end in REPARAMETRIZED if name.endswith(end)), name)
    return (
        layout_of(module, name, shape) or layout_of(module, plain, shape) or _conv1d(module, name)
    )


def _conv1d(module: nn.Module, name: str) -> Layout | None:
    """`Conv1D` of transformers, a product with an (in, out) matrix, which is not imported here."""
    known = any(
        kind.__name__ == "Conv1D" and kind.__module__.partition(".")[0] == "transformers"
        for kind in type(module).__mro__
    )
    return TRANSPOSED_MATRIX if known and name == "weight" else None


def _convolution(layer: Any, shape: tuple[int, ...]) -> Layout:
    return convolution(shape, layer.groups, out=0, in_=1)


def _transposed(layer: Any, shape: tuple[int, ...]) -> Layout:
    return transposed_convolution(shape, layer.groups, out=1, in_=0)


BUILT_IN: dict[type[nn.Module], dict[str, ParameterLayout]] = {
    nn.Linear: {"weight": MATRIX},
    nn.Bilinear: {"weight": {"out": 0, "in": (1, 2), "sum": (1, 2)}},
    ConvNd: {"weight": _convolution},
    ConvTransposeNd: {"weight": _transposed},
    nn.Embedding: {"weight": MATRIX},
    nn.EmbeddingBag: {"weight": MATRIX},
    nn.RNNBase: {"weight_*": MATRIX},
    nn.RNNCellBase: {"weight_*": MATRIX},
    nn.MultiheadAttention: {"*_proj_weight": MATRIX, "bias_[kv]": WHOLE},
    nn.LayerNorm: {"*": WHOLE},
    nn.RMSNorm: {"*": WHOLE},
}
"""Of an embedding each row is what a lookup gives: as in the output layer that often shares it,
the rows are its output channels.
"""

for kind, parameters in BUILT_IN.items():
    register_layout(kind, parameters)
