"""Rounding under the scales of blocks (clauses BLK-4, BLK-8, BLK-10, BLK-11, BLK-13)."""

from __future__ import annotations

from ..arrays import Array
from ..formats import BinadeFormat, Block, TableFormat
from ..formats.scale import VENDOR_RULES
from ..rounding import Choice
from .binary32 import multiply32, number32, to_binary32
from .block_scales import Scales, integers
from .context import BINARY32, Context, Magnitude, Target
from .division import Number, number, pack, product, round_quotient
from .element import Rounded, finish, round_binade, round_magnitude
from .ggml import ggml_elements, ggml_values
from .overflow import OutOfRange, overflow_bits, results_of
from .scaled_table import element_dtype, round_scaled_table


def round_scaled(
    ctx: Context, x: Array, format: Block, target: Target, words: Array | None, scales: Scales
) -> Array:
    """x rounded to the format, which is the target's; its scales broadcast to x's shape."""
    if format.powers and isinstance(format.element, BinadeFormat):
        rounded = round_binade(ctx, x, format.element, target, words, scales.exponent)
    else:
        elements = round_elements(ctx, x, format, target, words, scales)
        rounded = values_of(ctx, elements, format, scales)
    return with_nan(ctx, rounded, scales.nan)


def of_elements(ctx: Context, format: Block) -> Context:
    """The context of the elements of a block format: that of the array; of tables their own; that
    of float32 by clause BLK-19.
    """
    if format.in_integers:
        return ctx.of(BINARY32)
    table = isinstance(format.element, TableFormat)
    return ctx.of(element_dtype(ctx.dtype)) if table else ctx


def with_nan(ctx: Context, values: Array, nan: Array | None) -> Array:
    """The values, NaN where the mask holds."""
    if nan is None:
        return values
    xp, dtype = ctx
    return xp.floats(xp.where(nan, dtype.nan, xp.bits(values)), dtype.name)


def round_elements(
    ctx: Context, x: Array, format: Block, target: Target, words: Array | None, scales: Scales
) -> Array:
    """x divided by the scale and rounded to the element format (less the zero point), in the dtype
    of `of_elements`.
    """
    element = format.element
    if format.in_integers:
        return ggml_elements(ctx, x, format, target, words, scales)
    if isinstance(element, TableFormat):
        return round_scaled_table(ctx, x, element, target, words, scales.number)
    magnitude, negative = ctx.magnitude_bits(x), ctx.negative(x)
    choice = Choice(target.rounding, negative, words)
    if format.powers:
        sig, ulp = ctx.split(magnitude)
        scaled = Magnitude(sig, ulp - scales.exponent)
        rounded = round_magnitude(ctx, element, scaled, choice)
    elif scales.inverse is not None:
        single = multiply32(ctx.xp, to_binary32(ctx, magnitude), scales.inverse)
        scaled = ctx.of(BINARY32).split(single)
        rounded = round_magnitude(ctx, element, scaled, choice)
    else:
        rounded = round_quotient(ctx, element, ctx.split(magnitude), scales.number, choice)
    if scales.zero_point is None:
        return round_binade(ctx, x, element, target, rounded=rounded)
    return _round_affine(ctx, x, target, scales.zero_point, rounded)


def _round_affine(
    ctx: Context, x: Array, target: Target, zero_point: Array, rounded: Rounded
) -> Array:
    """Integers from -zero_point to the element's max - zero_point (clause BLK-10)."""
    xp, dtype = ctx
    magnitude, negative = ctx.magnitude_bits(x), ctx.negative(x)
    most = int(target.element.max)
    bound = xp.where(negative, zero_point, most - zero_point) + 0 * magnitude
    n = integers(ctx, rounded)
    beyond = (n > bound) | (magnitude == dtype.infinity)
    n = xp.where(beyond, bound, n)
    bits = xp.where(n == 0, 0, ctx.join(*ctx.normalize(n)))
    masks = OutOfRange(beyond, negative, magnitude == dtype.infinity)
    bits = overflow_bits(ctx, results_of(target), bits, masks)
    bits = ctx.signed(bits, negative & (bits != 0) & (bits <= dtype.infinity))
    return finish(ctx, x, magnitude, bits)


def values_of(ctx: Context, elements: Array, format: Block, scales: Scales) -> Array:
    """What elements stand for under the scales of their blocks."""
    if not format.in_integers:
        return times_scale(ctx, elements, format, scales.number)
    single = ctx.of(BINARY32)
    products = times_scale(single, elements, format, scales.number)
    return narrowed(ctx, ggml_values(ctx, products, scales))


def narrowed(ctx: Context, values: Array) -> Array:
    """float32 numbers rounded to the dtype, the greatest finite one beyond its range; infinities
    and NaN stay.
    """
    xp, dtype = ctx
    if dtype.name == "float32":
        return values
    single = ctx.of(BINARY32)
    magnitude = single.magnitude_bits(values)
    bits = xp.minimum(_narrowed(ctx, magnitude), dtype.infinity - 1)
    bits = xp.where(magnitude == BINARY32.infinity, dtype.infinity, bits)
    bits = xp.where(magnitude > BINARY32.infinity, dtype.nan, bits)
    return ctx.floats(ctx.signed(bits, single.negative(values)))


def _narrowed(ctx: Context, bits: Array) -> Array:
    """Magnitude bits in the dtype of those of float32 numbers."""
    exponent, significand = number32(ctx.xp, bits)
    narrow = pack(ctx, Magnitude(significand, exponent - 23), 23 + 0 * bits)
    return ctx.xp.where(bits == 0, 0, narrow)


def times_scale(ctx: Context, elements: Array, format: Block, scale: Number) -> Array:
    """Element values times scales, rounded once to the dtype (by vendor rules to float32 first);
    the greatest finite number beyond its range.
    """
    (xp, dtype), own = ctx, of_elements(ctx, format)
    magnitude = own.magnitude_bits(elements)
    factor = number(own, own.split(magnitude))
    if scale.significand is None:
        scale = Number(scale.exponent, 1 << dtype.significand)
    if format.rule in VENDOR_RULES and dtype.name != "float32":
        bits = product(ctx.of(BINARY32), factor, scale)
        bits = _narrowed(ctx, bits)
    else:
        bits = product(ctx, factor, scale)
    bits = xp.where(magnitude == 0, 0, xp.minimum(bits, dtype.infinity - 1))
    special = magnitude
    if own.dtype is not dtype:
        special = xp.where(
            magnitude > own.dtype.infinity, dtype.nan, 0 * magnitude + dtype.infinity
        )
    bits = xp.where(magnitude >= own.dtype.infinity, special, bits)
    return ctx.floats(ctx.signed(bits, own.negative(elements)))
