"""Scales that are chosen by the error of the block (clause BLK-17)."""

from __future__ import annotations

from ..arrays import Array, Namespace
from ..formats import BinadeFormat, Block
from ..formats.scale import candidates_of
from ..rounding import NEAREST
from .binary32 import to_binary32
from .block_round import round_scaled
from .block_scales import Extent, Scales, Shared, greatest_of, scales_by_rule
from .blocks import is_empty, over_blocks
from .context import Context, Target
from .division import Number
from .nvfp4 import by_nearest

RESOLUTION = 15
"""Errors are counted in units of 2^-15 of the binade of amax, up to 2^15 - 1 of them."""

LIMB = 10
"""Bits of the three limbs of a square, which are summed apart: in int32 of up to 2^21 elements."""

Loss = tuple[Array, Array, Array]
"""The limbs of a block's sum of squares, highest first."""


def searched_scales(ctx: Context, x: Array, format: Block, extent: Extent) -> Shared:
    """Of the candidates of the rule, the scales of the least error; of equal ones the first."""
    xp = ctx.xp
    rule = "floor" if format.powers else "nearest"
    tops, most = candidates_of(format.rule, format.top, bool(format.powers))
    global_scale = None
    if format.second is not None and isinstance(format.scale, BinadeFormat):
        whole = to_binary32(ctx, greatest_of(ctx, extent))
        global_scale = by_nearest(xp, whole, format.top, most or format.scale.max)
    formats = [format.replace(rule=rule, top=top) for top in tops]
    best, *others = [scales_by_rule(ctx, extent, each, global_scale) for each in formats]
    if is_empty(extent.shape):
        return best
    least = _loss(ctx, x, formats[0], extent, best)
    for each, candidate in zip(formats[1:], others, strict=True):
        loss = _loss(ctx, x, each, extent, candidate)
        better = _is_less(loss, least)
        a, b, c = (xp.where(better, *pair) for pair in zip(loss, least, strict=True))
        least = (a, b, c)
        scales = _chosen(xp, better, candidate.scales.number, best.scales.number)
        block_scale = _chosen(xp, better, candidate.block_scale, best.block_scale)
        best = Shared(best.scales._replace(**scales._asdict()), block_scale, best.global_scale)
    return best


def _chosen(xp: Namespace, mask: Array, a: Number, b: Number) -> Number:
    exponent = xp.where(mask, a.exponent, b.exponent)
    if a.significand is None:
        return Number(exponent, None)
    return Number(exponent, xp.where(mask, a.significand, b.significand))


def _loss(ctx: Context, x: Array, format: Block, extent: Extent, candidate: Shared) -> Loss:
    """The squared errors of each block, as integers whose sums have no order."""
    (xp, dtype), lengths = ctx, extent.shape
    scales = candidate.scales._replace(nan=None).over_elements(xp, lengths, format)
    target = Target(format, "saturate", NEAREST)
    result = ctx.magnitude_bits(round_scaled(ctx, x, format, target, None, scales))
    sig, ulp = ctx.split(extent.amax)
    unit = ctx.normalize(sig)[0] + ulp - RESOLUTION
    unit = Scales(unit).over_elements(xp, lengths, format).exponent
    magnitude = ctx.magnitude_bits(x)
    error = xp.abs(_in_units(ctx, magnitude, unit) - _in_units(ctx, result, unit))
    error = xp.minimum(error, (1 << RESOLUTION) - 1)
    error = xp.where(magnitude >= dtype.infinity, 0, error)
    square, mask = error * error, (1 << LIMB) - 1
    high, middle, low = (
        over_blocks(xp, xp.shift_right(square, LIMB * i) & mask, format, total=True)
        for i in (2, 1, 0)
    )
    middle = middle + xp.shift_right(low, LIMB)
    high = high + xp.shift_right(middle, LIMB)
    return high, middle & mask, low & mask


def _in_units(ctx: Context, magnitude: Array, unit: Array) -> Array:
    """⌊|x|/2^unit⌋; 2^(RESOLUTION + 2) for what is not below that."""
    xp, s, most = ctx.xp, ctx.dtype.significand, 1 << (RESOLUTION + 2)
    sig, ulp = ctx.split(magnitude)
    lead, fraction = ctx.normalize(sig)
    down = s - (lead + ulp - unit)  # of the significand, whose last bit is 2^(lead + ulp - s)
    n = xp.shift_right(fraction | (1 << s), xp.clip(down, 0, ctx.dtype.width - 1))
    return xp.where(sig == 0, 0, xp.where(down < s - RESOLUTION - 1, most, n))


def _is_less(a: Loss, b: Loss) -> Array:
    (a2, a1, a0), (b2, b1, b0) = a, b
    return (a2 < b2) | ((a2 == b2) & ((a1 < b1) | ((a1 == b1) & (a0 < b0))))
