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
from ..rounding import Rounding, rounds_up
from .overflow import MARK, overflow_result

Rounded = tuple[Array, Array, Array]
"""(binade, fraction, whether it is zero) of rounded magnitudes, before the range check."""


def round_binade(
    xp: Namespace,
    x: Array,
    carrier: SourceDtype,
    format: BinadeFormat,
    overflow: str,
    rounding: Rounding,
    words: Array | None,
    scale: Array | int = 0,
    rounded: Rounded | None = None,
) -> Array:
    """x/2^scale rounded to the format, times 2^scale.

    words : int32 random words of x's shape, for stochastic modes. scale : integers that broadcast
        to x's shape.
    rounded : what the magnitudes of x/2^scale round to, where that is known (as under another
        scale).
    """
    magnitude, sig, ulp = carrier.split(xp, x)
    negative = carrier.negative(xp, x)
    infinite = magnitude == carrier.infinity
    if rounded is None:
        rounded = round_magnitude(xp, carrier, format, rounding, sig, ulp - scale, negative, words)
    exponent, fraction, zero = rounded
    zero = zero & ~infinite

    if not format.has_zero:
        least = binade(format.min_positive)  # a power of two in every format without zero
        fraction = xp.where(exponent < least, 0, fraction)
        exponent = xp.maximum(exponent, least)
    bound_exponent, bound_fraction = _bounds(xp, carrier, format, negative, exponent)
    beyond = (exponent > bound_exponent) | (
        (exponent == bound_exponent) & (fraction > bound_fraction)
    )
    over = infinite | (beyond & ~zero)
    exponent = xp.where(over, bound_exponent, exponent)
    fraction = xp.where(over, bound_fraction, fraction)
    bits = xp.where(zero, 0, carrier.join(xp, exponent + scale, fraction))

    below = negative if format.signed else negative & ~zero
    least_bits = (
        0 if format.has_zero else carrier.join(xp, 0 * exponent + least + scale, 0 * fraction)
    )
    if not format.signed:
        over = over | below
        bits = xp.where(below, least_bits, bits)
    if not format.has_zero:
        bits = xp.where(zero, least_bits, bits)
    bits = overflow_result(xp, carrier, format, overflow, rounding, bits, below, over, infinite)
    if not format.has_zero and overflow in ("infinity", "nan", MARK):  # clause FMT-9
        bits = xp.where(zero if format.signed else zero | negative, carrier.nan, bits)
    if format.signed:
        signed = negative if format.has_negative_zero else negative & ~zero
        bits = xp.where(signed, bits | -(1 << (carrier.storage - 1)), bits)
    return finish(xp, x, carrier, magnitude, bits)


def finish(xp: Namespace, x: Array, carrier: SourceDtype, magnitude: Array, bits: Array) -> Array:
    """The array with these bits, NaN where x is NaN (clause RND-9)."""
    result = xp.cast(bits, carrier.storage)
    return xp.floats(xp.where(magnitude > carrier.infinity, xp.bits(x), result), carrier.name)


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


def aligned(xp: Namespace, words: Array | None, width: int) -> Array | None:
    """32-bit random words in the top bits of integers of `width`."""
    return words if words is None or width == 32 else xp.shift_left(xp.cast(words, 64), 32)


def round_magnitude(
    xp: Namespace,
    carrier: SourceDtype,
    format: BinadeFormat,
    rounding: Rounding,
    sig: Array,
    ulp: Array,
    negative: Array,
    words: Array | None,
) -> Rounded:
    """sig·2^ulp rounded to a multiple of its quantum; sig has at most as many bits as
    `SourceDtype.normalize` takes.
    """
    lead, _ = carrier.normalize(xp, sig)
    q = xp.maximum(ulp, format.quantum(lead + ulp, xp))
    n = round_to_multiple(
        xp,
        carrier,
        rounding,
        sig,
        ulp,
        q,
        negative,
        words,
        lambda n: format.parity(n, lead + ulp, xp),
    )
    exponent, fraction = carrier.normalize(xp, n)
    return exponent + q, fraction, n == 0


def round_to_multiple(
    xp: Namespace,
    carrier: SourceDtype,
    rounding: Rounding,
    sig: Array,
    ulp: Array,
    q: Array,
    negative: Array,
    words: Array | None,
    parity: Callable[[Array], Array] = lambda n: n & 1,
) -> Array:
    """n where sig·2^ulp rounds to n·2^q, q ≥ ulp. parity: of the candidate toward zero (clause
    RND-5).
    """
    width = carrier.width
    shift = xp.minimum(q - ulp, 2 * width - 1)
    n = xp.shift_right(sig, xp.minimum(shift, width - 1))
    high, low = fraction_words(xp, sig, shift, width)
    away = rounds_up(xp, rounding, high, low, parity(n), negative, aligned(xp, words, width))
    return n + xp.cast(away, width)


def _bounds(
    xp: Namespace, carrier: SourceDtype, format: BinadeFormat, negative: Array, like: Array
) -> tuple[Array | int, Array | int]:
    """(binade, fraction) of the greatest magnitude of each element's sign."""
    top, bottom = (
        parts(carrier, format.max),
        parts(carrier, -format.min if format.signed else format.max),
    )
    if top == bottom:
        return like * 0 + top[0], like * 0 + top[1]
    return (
        xp.where(negative, like * 0 + bottom[0], top[0]),
        xp.where(negative, like * 0 + bottom[1], top[1]),
    )


def parts(carrier: SourceDtype, value: float) -> tuple[int, int]:
    """(binade, fraction) of a number, as `SourceDtype.normalize` gives them."""
    e = binade(value)
    numerator, denominator = value.as_integer_ratio()
    scale = carrier.significand - e
    units = (
        (numerator << max(scale, 0)) // denominator
        if scale >= 0
        else numerator // (denominator << -scale)
    )
    return e, units - (1 << carrier.significand)
