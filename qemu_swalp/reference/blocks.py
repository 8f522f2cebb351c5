"""Blocks of an array: reductions over them, and what they share repeated over their elements
(clause BLK-2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..arrays import Array, Namespace
from ..formats import Block

Lengths = Sequence[Any]
"""Of an array along its axes: ints, and 0-d integer arrays where a graph leaves them open."""


def over_blocks(xp: Namespace, values: Array, format: Block, total: bool = False) -> Array:
    """Maximum, or sum, of non-negative numbers over each block, in the shape of `blocks_shape`."""
    lengths = xp.lengths(values)
    split: list[Any] = []
    reduced: list[int] = []
    for axis, (length, extent) in enumerate(
        zip(lengths, format.extents(len(lengths)), strict=True)
    ):
        if extent == 1:
            split.append(length)
        elif extent is None or _covers(extent, length):
            reduced.append(len(split))
            split.append(length)
        else:
            blocks = -(-length // extent)
            values = xp.pad_end(values, axis, blocks * extent - length)
            reduced.append(len(split) + 1)
            split += [blocks, extent]
    if reduced:
        over = xp.sum_over if total else xp.max_over
        values = over(xp.reshape(values, split), reduced)
    return xp.reshape(values, blocks_shape(lengths, format))


def blocks_shape(lengths: Lengths, format: Block) -> tuple[Any, ...]:
    """Number of blocks along each axis of an array (clause COD-4)."""
    extents = format.extents(len(lengths)) if lengths else ()
    return tuple(
        1 if extent is None else -(-length // extent)
        for length, extent in zip(lengths, extents, strict=True)
    )


def spread(xp: Namespace, shared: Array, lengths: Lengths, format: Block) -> Array:
    """What each block of an array has, repeated so that it broadcasts to the elements."""
    for axis, (length, extent) in enumerate(
        zip(lengths, format.extents(len(lengths)), strict=True)
    ):
        if extent is not None and extent != 1 and not _covers(extent, length):
            shared = xp.first(xp.repeat(shared, extent, axis), length, axis)
    return shared


def is_empty(lengths: Lengths) -> bool:
    """Whether an array of these lengths is known to have no elements."""
    return any(isinstance(length, int) and length == 0 for length in lengths)


def _covers(extent: int, length: Any) -> bool:
    return isinstance(length, int) and length <= extent
