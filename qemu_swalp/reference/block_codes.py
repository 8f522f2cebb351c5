"""Codes of the elements of blocks, and the values of codes under scales (clause COD-4)."""

from __future__ import annotations

from ..arrays import Array
from ..formats import Block, TableFormat
from .block_round import of_elements, times_scale, values_of
from .block_scales import Scales, Shared
from .blocks import over_blocks
from .codes import binade_bits, codes_of_values, differs, without_code
from .context import Context
from .division import Number
from .shared_scales import block_scales
from .table_codes import table_values


def shared_by_values(ctx: Context, x: Array, format: Block) -> Shared:
    """What the blocks of an array of values share: the scales that the rule computes, or one power
    of two less or more where only that makes all elements of a block values; NaN where all of them
    are.
    """
    shared = block_scales(ctx, x, format, "propagate")
    if format.nonfinite == "block":
        numbers = ctx.xp.cast(ctx.magnitude_bits(x) <= ctx.dtype.infinity, ctx.dtype.width)
        nan = over_blocks(ctx.xp, numbers, format) == 0
        shared = shared._replace(scales=shared.scales._replace(nan=nan))
    if format.idempotent and format.rule == "floor":
        return shared
    xp = ctx.xp
    exponent = shared.block_scale.exponent
    for step in (-1, 2):
        over = shared.scales._replace(exponent=exponent).over_elements(xp, xp.shape(x), format)
        wrong = xp.cast(differs(ctx, x, format, over), ctx.dtype.width)
        exponent = exponent + step * over_blocks(xp, wrong, format)
    exponent = xp.clip(exponent, *(format.powers or (0, 0)))
    return Shared(shared.scales._replace(exponent=exponent), Number(exponent, None))


def lacking_code(ctx: Context, elements: Array, format: Block, scales: Scales) -> Array:
    """Mask of the elements of the result of `round_elements` that have no code."""
    mask = without_code(of_elements(ctx, format), elements, format.element)
    return mask if scales.nan is None else mask & ~scales.nan


def element_codes(ctx: Context, elements: Array, format: Block, scales: Scales) -> Array:
    """Codes of the result of `round_elements`; 0 where the block is NaN."""
    ctx = of_elements(ctx, format)
    xp, dtype = ctx
    if scales.nan is not None:
        elements = xp.floats(xp.where(scales.nan, 0, xp.bits(elements)), dtype.name)
    if scales.zero_point is None:
        codes = codes_of_values(ctx, elements, format.element)
        return codes if scales.nan is None else xp.where(scales.nan, 0, codes)
    sig, ulp = ctx.split(ctx.magnitude_bits(elements))
    n = xp.shift_left(
        xp.shift_right(sig, xp.clip(0 - ulp, 0, dtype.width - 1)), xp.clip(ulp, 0, format.bits)
    )
    codes = scales.zero_point + xp.where(ctx.negative(elements), 0 - n, n)
    return codes if scales.nan is None else xp.where(scales.nan, 0, codes)


def block_values(ctx: Context, codes: Array, format: Block, scales: Scales) -> Array:
    """The values of element codes under scales that broadcast to them."""
    xp, element = ctx.xp, format.element
    if isinstance(element, TableFormat):
        own = of_elements(ctx, format)
        elements = own.floats(table_values(own, codes, element))
        return times_scale(ctx, elements, format, scales.number)
    if format.powers:
        return ctx.floats(binade_bits(ctx, codes, element, scales.exponent))
    if format.in_integers:
        own = of_elements(ctx, format)
        return values_of(ctx, own.floats(binade_bits(own, codes, element)), format, scales)
    if scales.zero_point is None:
        bits = binade_bits(ctx, codes, element)
    else:
        n = (codes & ((1 << format.bits) - 1)) - scales.zero_point
        bits = xp.where(n == 0, 0, ctx.join(*ctx.normalize(xp.abs(n))))
        bits = ctx.signed(bits, n < 0)
    return times_scale(ctx, ctx.floats(bits), format, scales.number)
