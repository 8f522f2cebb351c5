"""Codes of the scales of blocks (clause COD-4)."""

from __future__ import annotations

import functools
import operator

from ..arrays import Array
from ..formats import BinadeFormat, Block, Exponent
from ..formats.binade import binade
from ..formats.scale import GGML_SIGNED
from .block_scales import NO_SCALE, Scales, Shared, number_or_zero
from .codes import binade_bits, codes_of_values
from .context import BINARY32, Context, Magnitude
from .division import Number, number
from .nvfp4 import effective
from .scale_formats import fractional, unsigned


def scale_codes(ctx: Context, format: Block, shared: Shared) -> Array:
    """Codes of the scale of each block."""
    (xp, dtype), (exponent, significand) = ctx, shared.block_scale
    if format.powers:
        codes = exponent - (format.powers[0] if isinstance(format.scale, BinadeFormat) else 0)
    else:
        scale = fractional(format)
        q = scale.quantum(exponent, xp)
        n = xp.shift_right(
            significand, xp.clip(dtype.significand - exponent + q, 0, dtype.width - 1)
        )
        negative = shared.scales.negative
        sign = n != n if negative is None else negative
        codes = scale.encode_parts(sign, n, xp.maximum(exponent, binade(scale.min_positive)), xp)
    if shared.scales.nan is not None and isinstance(format.scale, BinadeFormat):
        codes = xp.where(shared.scales.nan, format.scale.nan_code or 0, codes)
    return codes


def scales_of_codes(
    ctx: Context,
    format: Block,
    codes: Array,
    global_scale: Array | None,
    zero_point: Array | None,
) -> Scales:
    """The scales that codes stand for; inverse of `scale_codes`. NaN where a code stands for no
    finite number.
    """
    xp = ctx.xp
    if isinstance(format.scale, Exponent):
        return Scales(codes)
    scale = unsigned(format.scale)
    negative, n, q = scale.decode_parts(codes, xp)
    masks = [mask for mask in scale.special_codes(codes, xp) if mask is not None]
    nan = functools.reduce(operator.or_, masks) if masks else None
    value = number(ctx, Magnitude(n, q))
    if format.powers:
        return Scales(value.exponent, nan=nan)
    if global_scale is not None:
        single = ctx.of(BINARY32)
        bits = single.join(value.exponent, value.significand & ((1 << 23) - 1))
        block = xp.where(n == 0, 0, bits)
        value = number_or_zero(xp, effective(xp, format.rule, block, global_scale + 0 * block))
    else:
        value = Number(xp.where(n == 0, NO_SCALE, value.exponent), value.significand)
    if format.in_integers:
        single = ctx.of(BINARY32)
        signed = format.rule == GGML_SIGNED
        offset = None if signed else binade_bits(single, zero_point, format.scale)
        return Scales(*value, nan=nan, negative=negative if signed else None, offset=offset)
    return Scales(*value, nan=nan, zero_point=zero_point)


def minimum_codes(ctx: Context, format: Block, shared: Shared) -> Array | None:
    """Codes of the minimum of each block, None where the format has none (clause BLK-19)."""
    offset = shared.scales.offset
    if offset is None or not isinstance(format.scale, BinadeFormat):
        return None
    single = ctx.of(BINARY32)
    return codes_of_values(single, single.floats(offset), format.scale)
