"""The exponent that the elements of a block share (clauses BLK-2, BLK-3)."""

from __future__ import annotations

from ..backends import Array, Namespace
from ..carriers import Carrier
from ..formats import Block
from ..formats.binade import binade


def shared_exponents(xp: Namespace, x: Array, carrier: Carrier, format: Block) -> Array:
    """S of each block: reduced axes have length 1, a `size` axis its number of blocks."""
    magnitude, _, _ = carrier.split(xp, x)
    greatest = over_blocks(xp, xp.where(magnitude < carrier.infinity, magnitude, 0), format)
    sig, ulp = carrier.split_magnitude(xp, greatest)
    lead, _ = carrier.normalize(xp, sig)
    lowest, highest = -(1 << (format.scale_bits - 1)), (1 << (format.scale_bits - 1)) - 1
    exponent = xp.clip(lead + ulp - binade(format.element.max), lowest, highest)
    return xp.where(greatest == 0, lowest, exponent)


def over_blocks(xp: Namespace, values: Array, format: Block) -> Array:
    """Maximum of non-negative integers over each block."""
    shape = xp.shape(values)
    axes = format.axes_of(len(shape))
    if format.size is None:
        return xp.max_over(values, [a for a in range(len(shape)) if a not in axes])
    axis, size = axes[0], format.size
    blocks = -(-shape[axis] // size)
    padded = xp.pad_end(values, axis, blocks * size - shape[axis])
    runs = xp.reshape(padded, (*shape[:axis], blocks, size, *shape[axis + 1 :]))
    return xp.reshape(xp.max_over(runs, [axis + 1]), (*shape[:axis], blocks, *shape[axis + 1 :]))


def blocks_shape(shape: tuple[int, ...], format: Block) -> tuple[int, ...]:
    """Shape of the exponents of an array (clause COD-4)."""
    axes = format.axes_of(len(shape)) if shape else ()
    if format.size is None or not shape:
        return tuple(length if a in axes else 1 for a, length in enumerate(shape))
    return tuple(-(-length // format.size) if a in axes else length for a, length in enumerate(shape))


def spread(xp: Namespace, exponents: Array, shape: tuple[int, ...], format: Block) -> Array:
    """Block exponents repeated so that they broadcast to the elements of an array of that shape."""
    if format.size is None:
        return exponents
    axis = format.axes_of(len(shape))[0]
    return xp.first(xp.repeat(exponents, format.size, axis), shape[axis], axis)
