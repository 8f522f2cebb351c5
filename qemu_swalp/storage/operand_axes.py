"""Along which axes of a weight blocks run, so that its codes are those of the layer's operand."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from .._util.checks import near_matches
from ..formats import Block, Format
from ..formats.axis_words import VECTOR

OperandAxes = Mapping[str, int]
"""{"sum": the axis of a weight that the layer's product sums over, "out": that of its outputs}."""

PLACES = {-1: "sum", -2: "out"}
"""Axes of an operand as products take it, the sum's last, and the words for them."""


def format_for_operand(
    name: str,
    format: Format,
    shape: tuple[int, ...],
    layouts: Mapping[str, OperandAxes] | None,
) -> Format:
    """The format with axes of the weight for those of the operand.

    Raises ValueError if `layouts` lack the weight or an axis; or, without them, if the array has
    axes beside those of a matrix and no block has its size.
    """
    if not isinstance(format, Block) or format.axis is None:
        return format
    if layouts is None:
        _check_lengths(name, format, shape)
        return format
    if len(shape) < 2:
        return format.resolve(VECTOR)
    if name not in layouts:
        near = ", ".join(map(repr, near_matches(name, layouts))) or "none"
        raise ValueError(
            f"{name}, of shape {shape}: {format} runs along an operand's axes, and layouts= do not"
            f" say which those are (they have {near}); add layouts={{{name!r}: {{'sum': 1, 'out':"
            " 0}}. Where its layer sums over several of its axes there is no such format: leave the"
            " array as it is by the format None"
        )
    found = layouts[name]
    axes: list[int] = []
    for a in format.axis:
        word = PLACES.get(a) if isinstance(a, int) else {"in": "sum"}.get(a, a)
        if word is None or word not in found:
            raise ValueError(
                f"{name}, of shape {shape}: {format} names axis {a!r}, and an operand has -1, the"
                f" sum's, and -2, the outputs'; layouts= give {dict(found)}"
            )
        axes.append(found[word] % len(shape) - len(shape))
    return format if tuple(axes) == format.axis else format.replace(axis=tuple(axes))


def _check_lengths(name: str, format: Block, shape: tuple[int, ...]) -> None:
    """ValueError if an array of more axes than a matrix has only blocks that are cut off."""
    if format.size is None or len(shape) < 3 or format.axis_words or 0 in shape:
        return
    sizes = format.axes_of(len(shape))
    longest = prod(min(size, shape[axis]) for axis, size in sizes.items())
    if longest < prod(sizes.values()) and prod(shape) > longest:
        raise ValueError(
            f"{name}, of shape {shape}: no block of {format} would have more than {longest} of its"
            f" {prod(sizes.values())} elements, since its axis is not the one that the layer sums"
            f" over; tell it by layouts={{{name!r}: {{'sum': 1, 'out': 0}}}} or, of a model, by"
            " qemu_swalp_torch.operand_layouts(model) or its namesake in qemu_swalp_keras. If"
            f" blocks are to be short, give {{'sum': -1, 'out': -2}}"
        )
