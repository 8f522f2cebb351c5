"""The formats of scales that are no powers of two, as the reference implementation uses them."""

from __future__ import annotations

from dataclasses import replace

from ..formats import BinadeFormat, Block, Float
from .context import Context
from .division import Number
from .element import Rounded, parts


def fractional(format: Block) -> BinadeFormat:
    """The scale's format, which has significand bits. TypeError where its scales are powers of
    two.
    """
    if not isinstance(format.scale, BinadeFormat):
        raise TypeError(f"{format.scale} has no significand")
    return unsigned(format.scale)


def unsigned(scale: BinadeFormat) -> BinadeFormat:
    """The format without the sign bit where that is the last of 32, which int32 lacks: scales are
    positive.
    """
    return replace(scale, signed=False) if isinstance(scale, Float) and scale.bits > 31 else scale


def in_range(ctx: Context, scale: BinadeFormat, rounded: Rounded) -> Number:
    """A positive value of the format: the greatest for what is above it, the least for zero and
    what is below it.
    """
    (xp, dtype), (exponent, fraction, zero) = ctx, rounded
    top, top_fraction = parts(dtype, scale.max)
    least, least_fraction = parts(dtype, scale.min_positive)
    beyond = (exponent > top) | ((exponent == top) & (fraction > top_fraction))
    below = zero | (exponent < least)
    exponent = xp.where(below, least, xp.where(beyond, top, exponent))
    fraction = xp.where(below, least_fraction, xp.where(beyond, top_fraction, fraction))
    return Number(exponent, fraction | (1 << dtype.significand))
