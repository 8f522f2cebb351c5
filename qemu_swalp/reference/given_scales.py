"""Scales and zero points that the caller gives (clause BLK-16)."""

from __future__ import annotations

from typing import NamedTuple

from ..arrays import Array
from ..arrays.dtypes import source_dtype
from ..formats import Block
from ..rounding import TO_NEAREST
from .blocks import Lengths, blocks_shape
from .context import Context
from .division import Number
from .element import round_magnitude
from .scale_formats import fractional, in_range


class Given(NamedTuple):
    """Arrays of the library: one entry for each block, or a single one."""

    scales: Array
    """Floating numbers."""
    zero_points: Array | None = None
    """Integers."""


class Fixed(NamedTuple):
    """What blocks share, whatever their elements are."""

    scale: Number
    zero_point: Array | None
    invalid: Array
    """Mask of the blocks whose scale or zero point is not one of the format's."""


def fixed_scales(ctx: Context, lengths: Lengths, format: Block, given: Given) -> Fixed:
    """The scales of the blocks of an array of these lengths, in the format of scales."""
    xp, shape = ctx.xp, blocks_shape(lengths, format)
    scale, invalid = scales_in_format(ctx, format, given.scales)
    zero_point = None
    if given.zero_points is not None:
        zero_point = xp.cast(given.zero_points, ctx.dtype.width)
        invalid = invalid | outside(zero_point, format)
        zero_point = over(ctx, zero_point, shape)
    exponent, significand = (None if part is None else over(ctx, part, shape) for part in scale)
    mask = over(ctx, xp.cast(invalid, ctx.dtype.width), shape) == 1
    return Fixed(Number(exponent, significand), zero_point, mask)


def over(ctx: Context, values: Array, shape: Lengths) -> Array:
    """One entry for each block."""
    xp = ctx.xp
    if len(xp.lengths(values)) == 0:
        return xp.broadcast(xp.reshape(values, (1,) * len(shape)), shape)
    return xp.reshape(values, shape)


def outside(zero_point: Array, format: Block) -> Array:
    """Mask of the integers that are no zero points of the format."""
    return (zero_point < 0) | (zero_point > int(format.element.max))


def scales_in_format(ctx: Context, format: Block, scales: Array) -> tuple[Number, Array]:
    """Floating numbers rounded to the format of scales, to nearest even, and a mask of those that
    are no scales: not positive, not finite, or no power of two where the format has only these.
    """
    own = ctx.of(source_dtype(ctx.xp.dtype(scales)))
    xp, dtype = own
    magnitude = own.magnitude_bits(scales)
    invalid = own.negative(scales) | (magnitude == 0) | (magnitude >= dtype.infinity)
    split = own.split(xp.where(invalid, 1 << dtype.mantissa, magnitude))
    if format.powers:
        lead, fraction = own.normalize(split.sig)
        exponent, significand = lead + split.ulp, None
        least, greatest = format.powers
        invalid = invalid | (fraction != 0) | (exponent < least) | (exponent > greatest)
    else:
        grid = fractional(format)
        rounded = round_magnitude(own, grid, split, TO_NEAREST)
        exponent, significand = in_range(own, grid, rounded)
        # both have 24 bits at most, whatever the width
        if dtype.width > ctx.dtype.width:
            significand = xp.shift_right(significand, dtype.significand - ctx.dtype.significand)
        significand = xp.cast(significand, ctx.dtype.width)
        if dtype.width < ctx.dtype.width:
            significand = xp.shift_left(significand, ctx.dtype.significand - dtype.significand)
    return Number(xp.cast(exponent, ctx.dtype.width), significand), invalid
