"""Codes of values, and the values of codes (clauses COD-1 to COD-3)."""

from __future__ import annotations

from ..arrays import Array
from ..formats import BinadeFormat, Format, TableFormat
from ..rounding import Rounding
from .block_scales import Scales
from .context import Context, Target, element_of
from .element import round_binade
from .table import round_table
from .table_codes import table_codes

TOWARD_ZERO = Rounding("toward_zero")


def codes_of_values(ctx: Context, x: Array, format: Format, scales: Scales | None = None) -> Array:
    """Codes of an array of values, whose blocks have these scales (powers of two)."""
    xp, scales = ctx.xp, scales or Scales()
    element = element_of(format)
    if isinstance(element, TableFormat):
        return table_codes(ctx, x, element)
    codes = _binade_codes(ctx, x, element, scales.exponent)
    return codes if scales.nan is None else xp.where(scales.nan, 0, codes)


def without_code(ctx: Context, x: Array, element: BinadeFormat | TableFormat) -> Array:
    """Mask of the infinities and NaN for which a format has no code."""
    magnitude, infinity = ctx.magnitude_bits(x), ctx.dtype.infinity
    mask = magnitude > infinity if not element.has_nan else magnitude < 0
    infinite = magnitude == infinity
    if not element.has_infinity:
        return mask | infinite
    return mask | (infinite & ctx.negative(x)) if element.min >= 0 else mask


def differs(ctx: Context, x: Array, format: Format, scales: Scales) -> Array:
    """Mask of the elements that are no values of the format, whose blocks have these scales."""
    xp, dtype = ctx
    element = element_of(format)
    target = Target(format, "infinity" if element.has_infinity else "saturate", TOWARD_ZERO)
    if isinstance(element, TableFormat):
        value = round_table(ctx, x, element, target)
    else:
        value = round_binade(ctx, x, element, target, scale=scales.exponent)
    magnitude = ctx.magnitude_bits(x)
    nan = magnitude > dtype.infinity
    # -0 has the code of 0 where the format has no -0
    sign_of_zero = (magnitude == 0) & (xp.bits(value) == 0)
    mask = (xp.bits(value) != xp.bits(x)) & ~sign_of_zero
    if not element.has_nan:
        mask = mask | nan
    return mask if scales.nan is None else (mask & ~scales.nan) | (scales.nan & ~nan)


def _binade_codes(ctx: Context, x: Array, format: BinadeFormat, scale: Array | int) -> Array:
    xp, dtype = ctx
    magnitude, negative = ctx.magnitude_bits(x), ctx.negative(x)
    sig, ulp = ctx.split(magnitude)
    ulp = ulp - scale
    exponent = ctx.normalize(sig)[0] + ulp
    shift = format.quantum(exponent, xp) - ulp + 0 * sig
    down, up = (xp.clip(count, 0, dtype.width - 1) for count in (shift, 0 - shift))
    n = xp.where(shift >= 0, xp.shift_right(sig, down), xp.shift_left(sig, up))
    if not format.has_negative_zero:
        negative = negative & (n != 0)
    codes = format.encode_parts(negative, n, exponent, xp)
    if format.infinity_code is not None:
        sign = format.signed << (format.bits - 1)
        infinity = xp.where(negative, format.infinity_code + sign, codes * 0 + format.infinity_code)
        codes = xp.where(magnitude == dtype.infinity, infinity, codes)
    if format.nan_code is not None:
        codes = xp.where(magnitude > dtype.infinity, format.nan_code, codes)
    return codes


def binade_bits(ctx: Context, codes: Array, format: BinadeFormat, scale: Array | int = 0) -> Array:
    """Bits of the values that codes stand for, times 2^scale."""
    xp, dtype = ctx
    negative, n, q = format.decode_parts(codes, xp)
    exponent, fraction = ctx.normalize(n)
    bits = xp.where(n == 0, 0, ctx.join(exponent + q + scale, fraction))
    infinite, nan = format.special_codes(codes, xp)
    if infinite is not None:
        bits = xp.where(infinite, dtype.infinity, bits)
    if nan is not None:
        bits = xp.where(nan, dtype.nan, bits)
        negative = negative & ~nan
    return ctx.signed(bits, negative)
