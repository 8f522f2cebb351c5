"""Rounding to a codebook (clauses RND-3, RND-4, RND-6).

Each sign is seen as a frame in which x counts as positive; the values of the frame, ascending, are u_0 < … < u_k. In
[u_i, u_{i+1}) the candidate toward zero is u_i, and ν = (|x| - u_i)/(u_{i+1} - u_i) comes by long division in units 2^g
that divide both ends, so it is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

from ..backends import Array, Namespace
from ..carriers import Carrier
from ..formats import Codebook
from ..rounding import Rounding, goes_away
from .binade import aligned, finish


def round_codebook(xp: Namespace, x: Array, carrier: Carrier, format: Codebook, rounding: Rounding,
                   words: Array | None) -> Array:
    """x rounded to the values of the codebook; arguments as `round_binade`."""
    carrier = _computing(carrier, format, rounding)
    magnitude, sig, ulp = carrier.split(xp, x)
    negative = carrier.negative(xp, x) & (magnitude != 0)
    positive_frame, negative_frame = _frame(format, carrier, 1), _frame(format, carrier, -1)

    def look_up(column: Callable[[Frame], tuple[int, ...]], index: Array) -> Array:
        return xp.where(negative, xp.take(column(negative_frame), index), xp.take(column(positive_frame), index))

    def place(frame: Frame) -> Array:
        return xp.searchsorted(frame.keys, magnitude) + (frame.not_positive - 1)

    found = xp.where(negative, place(negative_frame), place(positive_frame))
    last = len(format.entries) - 1
    outside = (found < 0) | (found >= last)
    index = xp.clip(found, 0, last - 1)

    divisor = look_up(lambda f: f.divisors, index)
    offset, tail = _units(xp, carrier, sig, ulp - look_up(lambda f: f.grains, index))
    high, low = _divide(xp, carrier, xp.where(outside, 0, offset - look_up(lambda f: f.starts, index)), tail, divisor,
                        rounding.random_bits + 1)
    odd = xp.where(negative, last - index, index) & 1
    away = goes_away(xp, rounding, high, low, odd, negative, aligned(xp, words, carrier.width))
    if rounding.mode == "toward_zero":
        away = away | (look_up(lambda f: f.crossing, index) == 1)
    chosen = xp.clip(xp.where(outside, found, index + xp.cast(away, carrier.width)), 0, last)
    return finish(xp, x, carrier, magnitude, look_up(lambda f: f.bits, chosen))


@dataclass(frozen=True)
class Frame:
    """One sign's view of a codebook: columns of integers for the device."""

    keys: tuple[int, ...]
    """Magnitude bits of the values u > 0."""
    not_positive: int
    """Number of values u ≤ 0."""
    bits: tuple[int, ...]
    """Bits of each value, in its true sign, as a signed integer of the storage width."""
    grains: tuple[int, ...]
    """For each interval, g: both ends are multiples of 2^g."""
    starts: tuple[int, ...]
    """u_i/2^g, modulo 2^width."""
    divisors: tuple[int, ...]
    """(u_{i+1} - u_i)/2^g."""
    crossing: tuple[int, ...]
    """1 where u_i < 0 < u_{i+1} (clause RND-6)."""


@lru_cache(maxsize=256)
def _frame(format: Codebook, carrier: Carrier, sign: int) -> Frame:
    values = sorted(sign * Fraction(v) for v in format.entries)
    pairs = list(pairwise(values))
    grains = [min(_grain(v) for v in pair if v) for pair in pairs]
    half = 1 << (carrier.width - 1)
    starts = [int(a / Fraction(2) ** g) for (a, _), g in zip(pairs, grains, strict=True)]
    return Frame(
        keys=tuple(_magnitude_bits(carrier, v) for v in values if v > 0),
        not_positive=sum(v <= 0 for v in values),
        bits=tuple(_magnitude_bits(carrier, abs(v)) - (1 << (carrier.storage - 1)) * (sign * v < 0) for v in values),
        grains=tuple(grains),
        starts=tuple((s + half) % (2 * half) - half for s in starts),
        divisors=tuple(int((b - a) / Fraction(2) ** g) for (a, b), g in zip(pairs, grains, strict=True)),
        crossing=tuple(int(a < 0 < b) for a, b in pairs),
    )


def _computing(carrier: Carrier, format: Codebook, rounding: Rounding) -> Carrier:
    """The carrier, in 64-bit integers where a divisor needs more than the 30 bits that long division has in 32."""
    for width in (carrier.width, 64):
        candidate = carrier if width == carrier.width else carrier.wide()
        if max(_frame(format, candidate, 1).divisors) < 1 << (width - 2):
            return candidate
    raise ValueError(f"{format} has neighbours more than 2^62 units of their last place apart, too far for exact "
                     "rounding; give its values fewer significant bits")


def _units(xp: Namespace, carrier: Carrier, sig: Array, shift: Array) -> tuple[Array, tuple[Array, Array]]:
    """⌊sig·2^shift⌋ modulo 2^width, and the tail (sig, number of its low bits that lie below the unit)."""
    most = carrier.width - 1
    up = xp.shift_left(sig, xp.clip(shift, 0, most))
    down = xp.shift_right(sig, xp.clip(0 - shift, 0, most))
    return xp.where(shift >= 0, up, down), (sig, xp.maximum(0 - shift, 0))


def _divide(xp: Namespace, carrier: Carrier, remainder: Array, tail: tuple[Array, Array], divisor: Array,
            bits: int) -> tuple[Array, Array]:
    """(high, low) of ν = (remainder + tail)/divisor < 1: `bits` quotient bits, then whether anything is left.

    remainder < divisor < 2^(width-2), so twice the remainder plus a bit of the tail never overflows.
    """
    width = carrier.width
    sig, count = tail
    high = low = 0 * remainder
    for i in range(bits):
        position = count - (i + 1)
        bit = xp.where(position >= 0, xp.shift_right(sig, xp.clip(position, 0, width - 1)) & 1, 0)
        remainder = remainder * 2 + bit
        one = xp.cast(remainder >= divisor, width)
        remainder = remainder - one * divisor
        if i < width:
            high = high | xp.shift_left(one, width - 1 - i)
        else:
            low = xp.shift_left(one, width - 1)
    unread = xp.clip(count - bits, 0, width - 2)
    left = (remainder | (sig & (xp.shift_left(0 * sig + 1, unread) - 1))) != 0
    return high, low | xp.cast(left, width)


def _grain(v: Fraction) -> int:
    """Exponent of the greatest power of two that divides v ≠ 0."""
    n = abs(v.numerator)
    return (n & -n).bit_length() - v.denominator.bit_length()


def signed_magnitude(v: Fraction, carrier: Carrier) -> int:
    """An integer that orders like the value: its magnitude bits, negated for v < 0."""
    return _magnitude_bits(carrier, abs(v)) * (-1 if v < 0 else 1)


def _magnitude_bits(carrier: Carrier, v: Fraction) -> int:
    """Bits of a non-negative value that the carrier holds."""
    if v == 0:
        return 0
    e = v.numerator.bit_length() - v.denominator.bit_length()
    e -= v < Fraction(2) ** e
    field = max(e + carrier.bias, 1)
    units = v / Fraction(2) ** (field - carrier.bias - carrier.mantissa)
    return int(units) + ((field - 1) << carrier.mantissa)
