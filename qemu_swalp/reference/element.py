"""Rounding to a binade format (clauses RND-2 to RND-10).

Integer arithmetic only: no product, sum or comparison of floats, so no flush-to-zero mode,
contraction or rewriting can change a bit. The one float operation is the conversion of an integer
of at most 24 (53) bits, exact, from which its binade is read.
"""

from __future__ import annotations

from collections.abc import Callable

from ..arrays import Array, Namespace
from ..arrays.dtypes import SourceDtype
from ..formats import BinadeFormat
from ..formats.binade import binade
from ..formats.overflow import INFINITY, NAN
from ..rounding import Choice, rounds_up
from .context import Context, Magnitude, Target
from .overflow import OutOfRange, overflow_bits, results_of

Rounded = tuple[Array, Array, Array]
"""(binade, fraction, whether it is zero) of rounded magnitudes, before the range check."""


def round_binade(
    ctx: Context,
    x: Array,
    format: BinadeFormat,
    target: Target,
    words: Array | None = None,
    scale: Array | int = 0,
    rounded: Rounded | None = None,
) -> Array:
    """x/2^scale rounded to the format, times 2^scale.

    format : of the elements, where the target's is a block format. words : int32 random words of
        x's shape, for stochastic modes. scale : integers that broadcast to x's shape.
    rounded : what the magnitudes of x/2^scale round to, where that is known (as under another
        scale).
    """
    xp, dtype = ctx
    magnitude, negative = ctx.magnitude_bits(x), ctx.negative(x)
    infinite = magnitude == dtype.infinity
    if rounded is None:
        sig, ulp = ctx.split(magnitude)
        choice = Choice(target.rounding, negative, words)
        rounded = round_magnitude(ctx, format, Magnitude(sig, ulp - scale), choice)
    exponent, fraction, zero = rounded
    zero = zero & ~infinite

    if not format.has_zero:
        least = binade(format.min_positive)  # a power of two in every format without zero
        fraction = xp.where(exponent < least, 0, fraction)
        exponent = xp.maximum(exponent, least)
    bound_exponent, bound_fraction = _bounds(ctx, format, negative, exponent)
    beyond = (exponent > bound_exponent) | (
        (exponent == bound_exponent) & (fraction > bound_fraction)
    )
    over = infinite | (beyond & ~zero)
    exponent = xp.where(over, bound_exponent, exponent)
    fraction = xp.where(over, bound_fraction, fraction)
    bits = xp.where(zero, 0, ctx.join(exponent + scale, fraction))

    below = negative if format.signed else negative & ~zero
    least_bits = 0 if format.has_zero else ctx.join(0 * exponent + least + scale, 0 * fraction)
    if not format.signed:
        over = over | below
        bits = xp.where(below, least_bits, bits)
    if not format.has_zero:
        bits = xp.where(zero, least_bits, bits)
    results = results_of(target)
    bits = overflow_bits(ctx, results, bits, OutOfRange(over, below, infinite))
    if not format.has_zero and results.zero == NAN:  # clause FMT-9
        bits = xp.where(zero, dtype.nan, bits)
    if format.signed:
        bits = ctx.signed(bits, negative if format.has_negative_zero else negative & ~zero)
    elif results.negative_infinity == INFINITY:  # clause BLK-13
        bits = ctx.signed(bits, negative & infinite)
    return finish(ctx, x, magnitude, bits)


def finish(ctx: Context, x: Array, magnitude: Array, bits: Array) -> Array:
    """The array with these bits, NaN where x is NaN (clause RND-9)."""
    xp, dtype = ctx
    result = xp.cast(bits, dtype.storage)
    return xp.floats(xp.where(magnitude > dtype.infinity, xp.bits(x), result), dtype.name)


def fraction_words(xp: Namespace, sig: Array, shift: Array, width: int) -> tuple[Array, Array]:
    """(high, low) of ν = sig/2^shift - ⌊sig/2^shift⌋ in 2·width bits, 0 ≤ shift < 2·width; see
    `rounds_up`.

    Exact: sig has at most width - 4 bits, so where shift is clipped to 2·width - 1 (from more), ν <
    2^-(width+3) and `low` only has to be non-zero with a clear top bit, which sig << 1 is. A shift
    by `width` is made in two steps.
    """
    most = width - 1
    inside = shift < width
    left = xp.shift_left(xp.shift_left(sig, xp.clip(most - shift, 0, most)), 1)
    right = xp.shift_right(sig, xp.clip(shift - width, 0, most))
    rest = xp.shift_left(xp.shift_left(sig, xp.clip(2 * width - 1 - shift, 0, most)), 1)
    return xp.where(inside, left, right), xp.where(inside, 0, rest)


def round_magnitude(
    ctx: Context, format: BinadeFormat, magnitude: Magnitude, choice: Choice
) -> Rounded:
    """A magnitude rounded to a multiple of its quantum; sig has at most as many bits as
    `Context.normalize` takes.
    """
    sig, ulp = magnitude
    lead, _ = ctx.normalize(sig)
    q = ctx.xp.maximum(ulp, format.quantum(lead + ulp, ctx.xp))
    n = round_to_multiple(ctx, magnitude, q, choice, lambda n: format.parity(n, lead + ulp, ctx.xp))
    exponent, fraction = ctx.normalize(n)
    return exponent + q, fraction, n == 0


def round_to_multiple(
    ctx: Context,
    magnitude: Magnitude,
    q: Array,
    choice: Choice,
    parity: Callable[[Array], Array] = lambda n: n & 1,
) -> Array:
    """n where sig·2^ulp rounds to n·2^q, q ≥ ulp. parity: of the candidate toward zero (clause
    RND-5).
    """
    xp, width = ctx.xp, ctx.dtype.width
    sig, ulp = magnitude
    shift = xp.minimum(q - ulp, 2 * width - 1)
    n = xp.shift_right(sig, xp.minimum(shift, width - 1))
    return n + xp.cast(
        rounds_up(xp, choice, *fraction_words(xp, sig, shift, width), parity(n)), width
    )


def _bounds(
    ctx: Context, format: BinadeFormat, negative: Array, like: Array
) -> tuple[Array | int, Array | int]:
    """(binade, fraction) of the greatest magnitude of each element's sign."""
    top = parts(ctx.dtype, format.max)
    bottom = parts(ctx.dtype, -format.min if format.signed else format.max)
    if top == bottom:
        return like * 0 + top[0], like * 0 + top[1]
    return (
        ctx.xp.where(negative, like * 0 + bottom[0], top[0]),
        ctx.xp.where(negative, like * 0 + bottom[1], top[1]),
    )


def parts(dtype: SourceDtype, value: float) -> tuple[int, int]:
    """(binade, fraction) of a number, as `Context.normalize` gives them."""
    e = binade(value)
    numerator, denominator = value.as_integer_ratio()
    scale = dtype.significand - e
    units = (
        (numerator << max(scale, 0)) // denominator
        if scale >= 0
        else numerator // (denominator << -scale)
    )
    return e, units - (1 << dtype.significand)
