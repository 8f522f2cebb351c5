"""Scales and zero points that the caller gives (clause BLK-16)."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from ..arrays import Array
from ..arrays.dtypes import source_dtype
from ..formats import Block
from ..formats.scale_rules import OWN_RULES, BlockView
from ..rounding import TO_NEAREST
from .binary32 import to_binary32
from .block_scales import Extent
from .blocks import Lengths, blocks_shape, is_empty, over_blocks
from .context import BINARY32, BINARY64, Context
from .division import Number
from .element import round_magnitude
from .scale_formats import fractional, in_range


class Given(NamedTuple):
    """Arrays of the library: one entry for each block, or a single one."""

    scales: Array
    """Floating numbers."""
    zero_points: Array | None = None
    """int32."""


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
    exponent, significand = (None if part is None else over(ctx, part, shape) for part in scale)
    mask = over(ctx, xp.cast(invalid, ctx.dtype.width), shape) == 1
    zero_point = None
    if given.zero_points is not None:
        zero_point = over(ctx, xp.cast(given.zero_points, ctx.dtype.width), shape)
        mask = mask | outside(zero_point, format)
    return Fixed(Number(exponent, significand), zero_point, mask)


def scales_of_own_rule(ctx: Context, x: Array, extent: Extent, format: Block) -> Fixed:
    """The scales that a rule of one's own gives; it is not asked about arrays without elements,
    whose scales are the least.
    """
    xp, dtype = ctx
    own = ctx.of(BINARY32 if dtype.width == 32 else BINARY64)
    amax = own.floats(_widened(ctx, extent.amax))
    shape = blocks_shape(extent.shape, format)
    if is_empty(extent.shape):
        scale, invalid = scales_in_format(ctx, format, amax, exact=False)
        return Fixed(scale, None, invalid)
    magnitude = ctx.magnitude_bits(x)
    finite = xp.where(magnitude < dtype.infinity, magnitude, 0)
    values = own.signed(_widened(ctx, finite), ctx.negative(x))

    def over(numbers: Array, total: bool = False) -> Array:
        return over_blocks(xp, numbers, format, total)

    ones = own.floats(0 * values + (own.dtype.bias << own.dtype.mantissa))
    view = BlockView(
        amax,
        own.floats(values),
        over,
        partial(over, total=True),
        over(ones, total=True),
        format.top,
        xp,
    )
    scales = OWN_RULES[format.rule](view)
    if not xp.owns(scales) or xp.dtype(scales) != own.dtype.name:
        raise TypeError(
            f"the scale rule {format.rule} must give an array like amax, of {own.dtype.name}, got"
            f" {xp.dtype(scales) if xp.owns(scales) else type(scales).__qualname__}"
        )
    scale, invalid = scales_in_format(ctx, format, xp.reshape(scales, shape), exact=False)
    return Fixed(scale, None, invalid)


def _widened(ctx: Context, bits: Array) -> Array:
    return to_binary32(ctx, bits) if ctx.dtype.width == 32 else bits


def over(ctx: Context, values: Array, shape: Lengths) -> Array:
    """One entry for each block."""
    xp = ctx.xp
    if len(xp.lengths(values)) == 0:
        return xp.broadcast(xp.reshape(values, (1,) * len(shape)), shape)
    return xp.reshape(values, shape)


def outside(zero_point: Array, format: Block) -> Array:
    """Mask of the integers that are no zero points of the format."""
    return (zero_point < 0) | (zero_point > int(format.element.max))


def scales_in_format(
    ctx: Context, format: Block, scales: Array, exact: bool = True
) -> tuple[Number, Array]:
    """Floating numbers rounded to the format of scales, to nearest even, and a mask of those that
    are no scales: not positive, not finite, or no power of two where the format has only these.

    exact : else zero counts as the least scale, and powers of two are rounded down to.
    """
    own = ctx.of(source_dtype(ctx.xp.dtype(scales)))
    xp, dtype = own
    magnitude = own.magnitude_bits(scales)
    invalid = (own.negative(scales) & (magnitude != 0)) | (magnitude >= dtype.infinity)
    if exact:
        invalid = invalid | (magnitude == 0)
    split = own.split(xp.where(invalid, 1 << dtype.mantissa, magnitude))
    if format.powers:
        lead, fraction = own.normalize(split.sig)
        exponent, significand = xp.where(magnitude == 0, -32768, lead + split.ulp), None
        least, greatest = format.powers
        if exact:
            invalid = invalid | (fraction != 0) | (exponent < least) | (exponent > greatest)
        exponent = xp.clip(exponent, least, greatest)
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
