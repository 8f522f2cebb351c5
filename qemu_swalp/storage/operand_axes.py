"""Along which axes of a weight blocks run, so that its codes are those of the layer's operand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from .._util.checks import near_matches
from ..formats import Block, Format
from ..formats.axis_words import VECTOR

OperandAxes = Mapping[str, int | Sequence[int]]
"""{"sum": the axis of a weight that the layer's product sums over, "out": that of its outputs}; or
several axes that the operand counts as one, the innermost last, or none, where it has length 1.
"""

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
            " 0}}, or leave the array as it is by the format None"
        )
    found = layouts[name]
    axes: list[int] = []
    sizes: list[int] = []
    for a, size in zip(format.axis, _sizes(format), strict=True):
        word = PLACES.get(a) if isinstance(a, int) else {"in": "sum"}.get(a, a)
        if word is None or word not in found:
            raise ValueError(
                f"{name}, of shape {shape}: {format} names axis {a!r}, and an operand has -1, the"
                f" sum's, and -2, the outputs'; layouts= give {dict(found)}"
            )
        named = found[word]
        own = [
            axis % len(shape) - len(shape)
            for axis in ([named] if isinstance(named, int) else named)
        ]
        if size is not None and own:
            _check_innermost(name, format, shape, own, size)
            axes.append(own[-1])
            sizes.append(size)
        elif size is None:
            axes += own
    if format.size is not None and not axes:  # runs along an axis of length 1
        axes, sizes = [-1], [1]
    elif len(axes) == len(shape) and len(format.axis) == 1:  # without a size BLK-2 has one block
        sizes = sizes or [1] * len(axes)
    size_of_each = tuple(sizes) if len(sizes) > 1 else next(iter(sizes), None)
    placed: Format = format.replace(axis=tuple(axes) or None, size=size_of_each)
    return placed


def _sizes(format: Block) -> Sequence[int | None]:
    """The size along each axis of a format."""
    count = len(format.axis or ())
    return format.size if isinstance(format.size, tuple) else (format.size,) * count


def _check_innermost(
    name: str, format: Block, shape: tuple[int, ...], axes: Sequence[int], size: int
) -> None:
    """ValueError if blocks of an operand's axis go beyond the innermost of the axes that it is."""
    if len(axes) > 1 and shape[axes[-1]] % size:
        raise ValueError(
            f"{name}, of shape {shape}: blocks of {size} along the axes {tuple(axes)}, which the"
            f" layer counts as one, do not fill the innermost, of length {shape[axes[-1]]}, so that"
            f" {format} has no such codes; leave the array as it is by the format None"
        )


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
