"""Blocks as ggml makes them: signed scales, and scales beside a minimum (clause BLK-19). The
float32 steps are those of its reference implementation, on bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Array, Namespace
from ..formats import BinadeFormat, Block
from ..formats.scale import GGML_MINIMUM
from .binary32 import add32, divide32, multiply32, nearest_value, to_binary32
from .block_scales import Scales, Shared, number_or_zero
from .blocks import blocks_shape, is_empty, over_blocks, spread
from .context import BINARY32, Context, Target
from .element import round_binade
from .nvfp4 import before_rounding

SIGN, INFINITY = BINARY32.sign, BINARY32.infinity


def ggml_scales(ctx: Context, x: Array, format: Block) -> Shared:
    """The scales of the blocks of an array of at least one dimension."""
    xp = ctx.xp
    single, negative = to_binary32(ctx, ctx.magnitude_bits(x)), ctx.negative(x)
    origin = offset = below = None
    if format.rule == GGML_MINIMUM:
        low, high = _ends(xp, single, negative, format)
        width = _above(xp, high, low)
        origin, offset = low, _nearest_signed(xp, low, _scale_format(format))
    else:
        width, below = _first_greatest(xp, single, negative, format)
    scale, inverse = before_rounding(xp, divide32(xp, width, _divisor(format)), format)
    number = number_or_zero(xp, scale)
    scales = Scales(*number, inverse=inverse, negative=below, origin=origin, offset=offset)
    return Shared(scales, number)


def _divisor(format: Block) -> float:
    element = format.element
    return float(element.max if format.rule == GGML_MINIMUM else -element.min)


def _scale_format(format: Block) -> BinadeFormat:
    if not isinstance(format.scale, BinadeFormat):
        raise TypeError(f"{format.scale} has no significand")
    return format.scale


def _first_greatest(
    xp: Namespace, single: Array, negative: Array, format: Block
) -> tuple[Array, Array]:
    """amax of each block, and whether the scale is negative: where the first element of that
    magnitude is not.
    """
    finite = xp.where(single < INFINITY, single, 0)
    amax = _greatest(xp, finite, format)
    lengths = xp.lengths(single)
    if is_empty(lengths):
        return amax, amax == amax
    there = (single < INFINITY) & (single == spread(xp, amax, lengths, format))
    later = 2 * (_run(format) - _positions(xp, single, format))
    key = xp.where(there, later + xp.cast(negative, 32), 0)
    return amax, (over_blocks(xp, key, format) & 1) == 0


def _greatest(xp: Namespace, bits: Array, format: Block) -> Array:
    """The greatest of each block; an array without elements has none."""
    lengths = xp.lengths(bits)
    if is_empty(lengths):
        return xp.broadcast(xp.table([0], 32, bits), blocks_shape(lengths, format))
    return over_blocks(xp, bits, format)


def _run(format: Block) -> int:
    if not isinstance(format.size, int):
        raise TypeError(f"the blocks of {format} are no runs")
    return format.size


def _positions(xp: Namespace, like: Array, format: Block) -> Array:
    """The place of each element in its run, with an axis of that length and others of 1."""
    lengths, size = xp.lengths(like), _run(format)
    axis = next(iter(format.axes_of(len(lengths))))
    count = blocks_shape(lengths, format)[axis]
    row = xp.reshape(xp.table(np.arange(size), 32, like), (1, size))
    places = xp.reshape(xp.broadcast(row, (count, size)), (count * size,))
    shape: list[Any] = [1] * len(lengths)
    shape[axis] = lengths[axis]
    return xp.reshape(xp.first(places, lengths[axis], 0), shape)


def _ends(xp: Namespace, single: Array, negative: Array, format: Block) -> tuple[Array, Array]:
    """float32 bits of the least finite number of each block, a zero without its sign, and of the
    greatest; 0 without one.

    Zero pads the last block, so each maximum is of numbers above zero, and 0 means none.
    """

    def greatest(mask: Array, key: Array) -> Array:
        return _greatest(xp, xp.where(mask & (single < INFINITY), key, 0), format)

    up, down = single + 1, INFINITY - single
    above, below = greatest(~negative, up), greatest(negative, up)
    least_above, least_below = greatest(~negative, down), greatest(negative, down)
    high = xp.where(above > 0, above - 1, xp.where(least_below > 0, INFINITY - least_below, 0))
    high = xp.where((above == 0) & (least_below > 0), high | SIGN, high)
    low = xp.where(least_above > 0, INFINITY - least_above, 0)
    low = xp.where(below > 0, xp.maximum(below - 1, 0), low)
    return xp.where(below > 1, low | SIGN, low), high


def _nearest_signed(xp: Namespace, bits: Array, format: BinadeFormat) -> Array:
    return nearest_value(xp, bits & ~SIGN, format) | (bits & SIGN)


def _above(xp: Namespace, bits: Array, low: Array) -> Array:
    """float32 magnitude bits of x − low, for x not below it; the greatest number beyond these."""
    return xp.minimum(add32(xp, bits, low ^ SIGN) & ~SIGN, INFINITY - 1)


def ggml_elements(
    ctx: Context, x: Array, format: Block, target: Target, words: Array | None, scales: Scales
) -> Array:
    """The elements as float32: (y ⊕ c) − c, rounded, where y is x under the inverse of the scale
    before that was rounded. Infinities and NaN stay.
    """
    xp, single = ctx.xp, ctx.of(BINARY32)
    magnitude, negative = to_binary32(ctx, ctx.magnitude_bits(x)), ctx.negative(x)
    special = magnitude >= INFINITY
    y, center, below = magnitude, 0.5, special & ~special
    if scales.origin is not None:
        y = _above(xp, single.signed(magnitude, negative), scales.origin)
    else:
        below = negative = negative ^ scales.negative
        center = 0.5 - float(format.element.min)
    y = multiply32(xp, xp.where(special, 0, y), scales.inverse)
    rounded_sum = _minus(xp, y, below, center)
    element = format.element
    if not isinstance(element, BinadeFormat):
        raise TypeError(f"{element} has no binades")
    bits = xp.where(special, single.signed(magnitude, negative), rounded_sum)
    return round_binade(single, single.floats(bits), element, target, words)


def _minus(xp: Namespace, y: Array, negative: Array, center: float) -> Array:
    """float32 bits of (±y ⊕ c) − c, which float32 represents, for y below 32 (or what is so
    clipped) and c = 1/2 + 2^k.

    In units of 2^-25, of 2^-26 for y < 1: there y is rounded to odd, two bits or more below the
    last of the sum, which the conversion of the integer rounds to 24 bits.
    """
    ctx = Context(xp, BINARY32)
    sig, ulp = ctx.split(xp.minimum(y, 0x4200_0000))
    small = y < 0x3F80_0000
    unit = xp.where(small, 26, 0 * y + 25)
    shift = ulp + unit - 1
    half = xp.shift_left(sig, xp.clip(shift, 0, 6))
    down = xp.clip(0 - shift, 0, 31)
    half = xp.shift_right(half, down)
    lost = xp.cast(xp.shift_left(half, down) != xp.shift_left(sig, xp.clip(shift, 0, 6)), 32)
    odd = 2 * half | lost
    c = xp.where(small, int(center * 2**26), 0 * y + int(center * 2**25))
    total = xp.maximum(c + xp.where(negative, 0 - odd, odd), 0)
    binade, fraction = ctx.normalize(total)
    rounded = xp.shift_left(fraction | (1 << 23), xp.clip(binade - 23, 0, 8))
    n = xp.where(binade < 23, total, rounded) - c
    lead, fraction = ctx.normalize(xp.abs(n))
    bits = xp.where(n == 0, 0, ctx.join(lead - unit, fraction))
    return ctx.signed(bits, n < 0)


def ggml_values(ctx: Context, products: Array, scales: Scales) -> Array:
    """What products of elements and magnitudes of scales stand for, both float32."""
    single = ctx.of(BINARY32)
    bits, xp = ctx.xp.bits(products), ctx.xp
    if scales.negative is not None:
        return single.floats(xp.where(scales.negative, bits ^ SIGN, bits))
    special = (bits & ~SIGN) >= INFINITY
    return single.floats(xp.where(special, bits, add32(xp, bits, scales.offset + 0 * bits)))
