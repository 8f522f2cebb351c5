"""Quotients and products of floats, rounded once, in integer arithmetic (clause BLK-8)."""

from __future__ import annotations

from typing import NamedTuple

from ..arrays import Array, Namespace
from ..arrays.dtypes import SourceDtype
from ..formats import BinadeFormat
from ..formats.binade import binade
from ..rounding import TO_NEAREST, Choice, rounds_up
from .context import Context, Magnitude
from .element import Rounded, fraction_words, parts


class Number(NamedTuple):
    """Positive numbers significand·2^(exponent - s), 2^s ≤ significand < 2^(s+1), as arrays; or as
    two ints for a constant. s is `SourceDtype.significand`: 23 in int32, 52 in int64.
    """

    exponent: Array
    significand: Array


def number(ctx: Context, magnitude: Magnitude) -> Number:
    """sig·2^ulp, sig > 0 of at most s + 1 bits. Without meaning where sig = 0."""
    lead, fraction = ctx.normalize(magnitude.sig)
    return Number(lead + magnitude.ulp, fraction | (1 << ctx.dtype.significand))


def constant(dtype: SourceDtype, value: float) -> Number:
    """A positive number of the host that s + 1 bits represent."""
    exponent, fraction = parts(dtype, value)
    return Number(exponent, fraction | (1 << dtype.significand))


def round_quotient(
    ctx: Context, format: BinadeFormat, magnitude: Magnitude, divisor: Number, choice: Choice
) -> Rounded:
    """magnitude/divisor rounded to a multiple of its quantum, from the exact quotient.

    Long division: with r the dividend's significand, doubled where it is less than d, r/d = 1.b1 b2
    …; the quotient is that times 2^e. The first e - q + 1 bits are n; if e < q, n = 0 and ν has q -
    e - 1 zeros before the leading 1. Remainders stay below 2·d < 2^(s+2).
    """
    xp, width = ctx.xp, ctx.dtype.width
    dividend, d = number(ctx, magnitude), divisor.significand
    less = dividend.significand < d
    e = dividend.exponent - divisor.exponent - xp.cast(less, width)
    remainder = xp.where(less, dividend.significand * 2, dividend.significand)
    top = binade(max(format.max, -format.min))
    most = max(format.precision - 1, top - format.quantum_at(top))
    q = format.quantum(e, xp)
    more = xp.minimum(e - q, most)  # less than e - q only beyond the range, where n does not matter

    n = xp.where(more >= 0, 1, 0 * e)
    remainder = xp.where(more >= 0, remainder - d, remainder)
    for i in range(most):
        active, doubled = more > i, remainder * 2
        one = doubled >= d
        n = xp.where(active, n * 2 + xp.cast(one, width), n)
        remainder = xp.where(active, xp.where(one, doubled - d, doubled), remainder)
    absent = magnitude.sig == 0
    n, remainder = xp.where(absent, 0, n), xp.where(absent, 0, remainder)
    high, low = _fraction(ctx, remainder, d, 0 - more, choice.rounding.random_bits + 1)
    n = n + xp.cast(rounds_up(xp, choice, high, low, format.parity(n, e, xp)), width)
    exponent, fraction = ctx.normalize(n)
    return xp.where((e > top) & ~absent, e, exponent + q), fraction, n == 0


def _fraction(
    ctx: Context, remainder: Array, d: Array, delay: Array, bits: int
) -> tuple[Array, Array]:
    """(high, low) of ν: `bits` bits, then whether anything is left.

    ν is remainder/d where delay ≤ 0, and 2^-delay·remainder/d with d ≤ remainder < 2·d where delay
    > 0: then its bit number `delay` is the first, and the remainder is not doubled for it.
    """
    xp, width = ctx.xp, ctx.dtype.width
    high = low = 0 * remainder
    for j in range(1, bits + 1):
        remainder = xp.where(delay < j, remainder * 2, remainder)
        one = (remainder >= d) & (delay <= j)
        remainder = xp.where(one, remainder - d, remainder)
        if j <= width:
            high = high | xp.shift_left(xp.cast(one, width), width - j)
        else:
            low = xp.shift_left(xp.cast(one, width), width - 1)
    return high, low | xp.cast(remainder != 0, width)


def product(ctx: Context, a: Number, b: Number) -> Array:
    """Magnitude bits of a·b: rounded once, to nearest even; infinity beyond the range.

    Schoolbook on halves of `half` bits. The top 2·half + 4 bits (or so) of the product go on, the
    last of them set where anything is left: at least two more than any dtype of that width has, so
    the rounding is that of the whole.
    """
    xp, s = ctx.xp, ctx.dtype.significand
    half = s // 2 + 1
    mask = (1 << half) - 1
    a_high, a_low = xp.shift_right(a.significand, half), a.significand & mask
    b_high, b_low = _upper(xp, b.significand, half), b.significand & mask
    lowest = a_low * b_low
    middle = a_high * b_low + a_low * b_high + xp.shift_right(lowest, half)
    upper = a_high * b_high + xp.shift_right(middle, half)
    lower = xp.shift_left(middle & mask, half) | (lowest & mask)
    dropped = 2 * half - 4
    sig = xp.shift_left(upper, 4) | xp.shift_right(lower, dropped)
    sig = sig | xp.cast((lower & ((1 << dropped) - 1)) != 0, ctx.dtype.width)
    lead, _ = ctx.normalize(upper)
    return pack(ctx, Magnitude(sig, a.exponent + b.exponent - 2 * s + dropped), lead + 4)


def _upper(xp: Namespace, n: Array | int, half: int) -> Array:
    return n >> half if isinstance(n, int) else xp.shift_right(n, half)


def pack(ctx: Context, magnitude: Magnitude, lead: Array) -> Array:
    """Magnitude bits of sig·2^ulp, sig > 0, rounded to nearest even; infinity beyond the range.
    lead: sig's binade.

    n has the hidden bit of a normal number, so field·2^mantissa + n is right for subnormals and
    after a carry too.
    """
    (xp, dtype), (sig, ulp) = ctx, magnitude
    q = xp.maximum(lead + ulp - dtype.mantissa, dtype.least_exponent)
    shift = xp.clip(q - ulp, 0, 2 * dtype.width - 1)
    n = xp.shift_right(sig, xp.minimum(shift, dtype.width - 1))
    high, low = fraction_words(xp, sig, shift, dtype.width)
    n = n + xp.cast(rounds_up(xp, TO_NEAREST, high, low, n & 1), dtype.width)
    last = (dtype.infinity >> dtype.mantissa) - 1
    field = xp.clip(q - dtype.least_exponent, 0, last)
    bits = xp.shift_left(xp.minimum(field, last - 1), dtype.mantissa) + n
    return xp.where(field == last, dtype.infinity, bits)
