"""The exponent that the elements of a block share (clauses BLK-2, BLK-3)."""

from __future__ import annotations

from ..backends import Array, Namespace
from ..carriers import Carrier
from ..formats import Block
from ..formats.base import binade


def shared_exponents(xp: Namespace, x: Array, carrier: Carrier, format: Block) -> Array:
    """S of each block: reduced axes have length 1, a `size` axis its number of blocks."""
    magnitude, _, _ = carrier.split(xp, x)
    finite = xp.where(magnitude < carrier.infinity, magnitude, 0)
    shape = xp.shape(x)
    axes = format.axes_of(len(shape))
    if format.size is None:
        greatest = xp.max_over(finite, [a for a in range(len(shape)) if a not in axes])
    else:
        axis, size = axes[0], format.size
        blocks = -(-shape[axis] // size)
        padded = xp.pad_end(finite, axis, blocks * size - shape[axis])
        runs = xp.reshape(padded, (*shape[:axis], blocks, size, *shape[axis + 1 :]))
        greatest = xp.reshape(xp.max_over(runs, [axis + 1]), (*shape[:axis], blocks, *shape[axis + 1 :]))
    sig, ulp = carrier.split_magnitude(xp, greatest)
    lead, _ = carrier.normalize(xp, sig)
    lowest, highest = -(1 << (format.scale_bits - 1)), (1 << (format.scale_bits - 1)) - 1
    exponent = xp.clip(lead + ulp - binade(format.element.max), lowest, highest)
    return xp.where(greatest == 0, lowest, exponent)


def spread(xp: Namespace, exponents: Array, shape: tuple[int, ...], format: Block) -> Array:
    """Block exponents repeated so that they broadcast to the elements of an array of that shape."""
    if format.size is None:
        return exponents
    axis = format.axes_of(len(shape))[0]
    return xp.first(xp.repeat(exponents, format.size, axis), shape[axis], axis)
