"""Quotients and products of floats, rounded once, in integer arithmetic (clauses BLK-8 and BLK-11).

A positive number is (exponent, significand): significand·2^(exponent - s), 2^s ≤ significand <
2^(s+1), where s is `SourceDtype.significand`: 23 in 32-bit integers, 52 in 64-bit ones.
"""

from __future__ import annotations

from typing import NamedTuple

from ..arrays import Array, Namespace
from ..arrays.dtypes import SOURCE_DTYPES, SourceDtype
from ..formats import BinadeFormat
from ..formats.binade import binade
from ..formats.block import FLOAT32
from ..rounding import Rounding, rounds_up
from .element import Rounded, aligned, fraction_words, parts

NEAREST = Rounding("nearest_even")
BINARY32 = SOURCE_DTYPES["float32"]


class Number(NamedTuple):
    """Positive numbers: an array and an array, or two ints for a constant."""

    exponent: Array
    significand: Array


def number(xp: Namespace, carrier: SourceDtype, sig: Array, ulp: Array) -> Number:
    """sig·2^ulp, sig > 0 of at most s + 1 bits. Without meaning where sig = 0."""
    lead, fraction = carrier.normalize(xp, sig)
    return Number(lead + ulp, fraction | (1 << carrier.significand))


def constant(carrier: SourceDtype, value: float) -> Number:
    """A positive number of the host that s + 1 bits hold."""
    exponent, fraction = parts(carrier, value)
    return Number(exponent, fraction | (1 << carrier.significand))


def round_quotient(
    xp: Namespace,
    carrier: SourceDtype,
    format: BinadeFormat,
    rounding: Rounding,
    sig: Array,
    ulp: Array,
    divisor: Number,
    negative: Array,
    words: Array | None,
) -> Rounded:
    """sig·2^ulp/divisor rounded to a multiple of its quantum, from the exact quotient.

    Long division: with r the dividend's significand, doubled where it is less than d, r/d = 1.b1 b2
    …; the quotient is that times 2^e. The first e - q + 1 bits are n; if e < q, n = 0 and ν has q -
    e - 1 zeros before the leading 1. Remainders stay below 2·d < 2^(s+2).
    """
    dividend, d = number(xp, carrier, sig, ulp), divisor.significand
    less = dividend.significand < d
    e = dividend.exponent - divisor.exponent - xp.cast(less, carrier.width)
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
        n = xp.where(active, n * 2 + xp.cast(one, carrier.width), n)
        remainder = xp.where(active, xp.where(one, doubled - d, doubled), remainder)
    absent = sig == 0
    n, remainder = xp.where(absent, 0, n), xp.where(absent, 0, remainder)
    high, low = _fraction(xp, carrier, remainder, d, 0 - more, rounding.random_bits + 1)
    odd = format.parity(n, e, xp)
    away = rounds_up(xp, rounding, high, low, odd, negative, aligned(xp, words, carrier.width))
    n = n + xp.cast(away, carrier.width)
    exponent, fraction = carrier.normalize(xp, n)
    return xp.where((e > top) & ~absent, e, exponent + q), fraction, n == 0


def _fraction(
    xp: Namespace, carrier: SourceDtype, remainder: Array, d: Array, delay: Array, bits: int
) -> tuple[Array, Array]:
    """(high, low) of ν: `bits` bits, then whether anything is left.

    ν is remainder/d where delay ≤ 0, and 2^-delay·remainder/d with d ≤ remainder < 2·d where delay
    > 0: then its bit number `delay` is the first, and the remainder is not doubled for it.
    """
    width = carrier.width
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


def product(xp: Namespace, carrier: SourceDtype, a: Number, b: Number) -> Array:
    """Magnitude bits of a·b in the carrier's dtype: rounded once, to nearest even; infinity beyond
    the range.

    Schoolbook on halves of `half` bits. The top 2·half + 4 bits (or so) of the product go on, the
    last of them set where anything is left: at least two more than any dtype of the carrier keeps,
    so the rounding is that of the whole.
    """
    s = carrier.significand
    half = s // 2 + 1
    mask = (1 << half) - 1
    ah, al, bh, bl = (
        xp.shift_right(a.significand, half),
        a.significand & mask,
        _high(xp, b, half),
        b.significand & mask,
    )
    lowest = al * bl
    middle = ah * bl + al * bh + xp.shift_right(lowest, half)
    upper = ah * bh + xp.shift_right(middle, half)
    lower = xp.shift_left(middle & mask, half) | (lowest & mask)
    kept = 2 * half - 4
    sig = xp.shift_left(upper, 4) | xp.shift_right(lower, kept)
    sig = sig | xp.cast((lower & ((1 << kept) - 1)) != 0, carrier.width)
    lead, _ = carrier.normalize(xp, upper)
    return pack(xp, carrier, sig, a.exponent + b.exponent - 2 * s + kept, lead + 4)


def _high(xp: Namespace, b: Number, half: int) -> Array:
    return (
        b.significand >> half
        if isinstance(b.significand, int)
        else xp.shift_right(b.significand, half)
    )


def pack(xp: Namespace, carrier: SourceDtype, sig: Array, ulp: Array, lead: Array) -> Array:
    """Magnitude bits of sig·2^ulp, sig > 0, rounded to nearest even; infinity beyond the range.
    lead: sig's binade.

    n holds the hidden bit of a normal number, so field·2^mantissa + n is right for subnormals and
    after a carry too.
    """
    q = xp.maximum(lead + ulp - carrier.mantissa, carrier.least_exponent)
    shift = xp.clip(q - ulp, 0, 2 * carrier.width - 1)
    n = xp.shift_right(sig, xp.minimum(shift, carrier.width - 1))
    high, low = fraction_words(xp, sig, shift, carrier.width)
    n = n + xp.cast(rounds_up(xp, NEAREST, high, low, n & 1, high != high, None), carrier.width)
    last = (carrier.infinity >> carrier.mantissa) - 1
    field = xp.clip(q - carrier.least_exponent, 0, last)
    bits = xp.shift_left(xp.minimum(field, last - 1), carrier.mantissa) + n
    return xp.where(field == last, carrier.infinity, bits)


# float32 arithmetic on magnitude bits, each step rounded once to nearest even, subnormals kept
# (clause BLK-11)


def number32(xp: Namespace, bits: Array) -> Number:
    """The number with these float32 magnitude bits."""
    return number(xp, BINARY32, *BINARY32.split_magnitude(xp, bits))


def multiply32(xp: Namespace, a: Array, b: Array | float) -> Array:
    """a·b; zero times infinity is zero."""
    factor = constant(BINARY32, b) if isinstance(b, float) else number32(xp, b)
    bits = product(xp, BINARY32, number32(xp, a), factor)
    infinite, zero = a == BINARY32.infinity, a == 0
    if not isinstance(b, float):
        infinite, zero = infinite | (b == BINARY32.infinity), zero | (b == 0)
    return xp.where(zero, 0, xp.where(infinite, BINARY32.infinity, bits))


def divide32(xp: Namespace, a: Array, b: Array | float) -> Array:
    """a/b; zero divided by zero is zero; b is finite."""
    divisor = constant(BINARY32, b) if isinstance(b, float) else number32(xp, b)
    sig, ulp = BINARY32.split_magnitude(xp, a)
    exponent, fraction, zero = round_quotient(
        xp, BINARY32, FLOAT32, NEAREST, sig, ulp, divisor, a < 0, None
    )
    bits = xp.where(
        exponent > BINARY32.bias, BINARY32.infinity, BINARY32.join(xp, exponent, fraction)
    )
    bits = xp.where(zero, 0, bits)
    infinite = a == BINARY32.infinity
    if not isinstance(b, float):
        infinite = infinite | ((b == 0) & (a != 0))
    return xp.where(infinite, BINARY32.infinity, bits)
