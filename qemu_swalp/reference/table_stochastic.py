"""Stochastic rounding to a table of values (clauses RND-4 and RND-12).

Each sign has a view of the table in which x counts as positive; the values of the view, ascending,
are u_0 < … < u_k. In [u_i, u_{i+1}) the neighbour toward zero is u_i, and
ν = (|x| - u_i)/(u_{i+1} - u_i) is computed in units 2^g that divide both ends, so it is exact; its
bits come by long division.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from ..arrays import Array
from ..arrays.dtypes import SourceDtype
from ..formats import TableFormat
from ..rounding import Choice, Rounding, rounds_up
from .context import Context, Magnitude
from .table_values import keys, value_bits


def stochastic_bits(
    ctx: Context, x: Array, format: TableFormat, rounding: Rounding, words: Array
) -> Array:
    """Bits of the chosen values."""
    ctx = ctx.of(_computing(ctx.dtype, format))
    xp, width = ctx.xp, ctx.dtype.width
    magnitude = ctx.magnitude_bits(x)
    sig, ulp = ctx.split(magnitude)
    negative = ctx.negative(x) & (magnitude != 0)
    of_positive, of_negative = (sign_view_of(format, ctx.dtype, sign) for sign in (1, -1))

    def look_up(column: Callable[[SignView], np.ndarray], index: Array) -> Array:
        return xp.where(
            negative, xp.take(column(of_negative), index), xp.take(column(of_positive), index)
        )

    def interval(view: SignView) -> Array:
        return xp.searchsorted(view.keys, magnitude) + (view.not_positive - 1)

    i = xp.where(negative, interval(of_negative), interval(of_positive))
    last = format.value_count - 1
    outside = (i < 0) | (i >= last)
    index = xp.clip(i, 0, last - 1)

    divisor = look_up(lambda view: view.divisors, index)
    shift = ulp - look_up(lambda view: view.ulp_exponents, index)
    offset, tail = _units(ctx, Magnitude(sig, shift))
    start = look_up(lambda view: view.starts, index)
    remainder = xp.where(outside, 0, offset - start)
    high, low = _divide(ctx, remainder, tail, divisor, rounding.random_bits + 1)
    away = rounds_up(xp, Choice(rounding, negative, words), high, low, 0 * index)
    chosen = xp.clip(xp.where(outside, i, index + xp.cast(away, width)), 0, last)
    return look_up(lambda view: view.bits, chosen)


@dataclass(frozen=True, eq=False)
class SignView:
    """The table as numbers of one sign see it: columns of integers for the device."""

    keys: np.ndarray
    """Magnitude bits of the values u > 0."""
    not_positive: int
    """Number of values u ≤ 0."""
    bits: np.ndarray
    """Bits of each value, in its true sign, as a signed integer of the storage width."""
    ulp_exponents: np.ndarray
    """For each interval, g: both ends are multiples of 2^g."""
    starts: np.ndarray
    """u_i/2^g, modulo 2^width."""
    divisors: np.ndarray
    """(u_{i+1} - u_i)/2^g; 2^63 - 1 where it is greater."""


@lru_cache(maxsize=256)
def sign_view_of(format: TableFormat, dtype: SourceDtype, sign: int) -> SignView:
    """The table as x of that sign sees it, in integers of the dtype's width."""
    values = sorted(sign * v for v in format.finite)
    pairs = list(pairwise(values))
    ulp_exponents = [min(_ulp_exponent(v) for v in pair if v) for pair in pairs]
    ends = [
        (_multiple(a, g), _multiple(b, g)) for (a, b), g in zip(pairs, ulp_exponents, strict=True)
    ]
    half = 1 << (dtype.width - 1)
    bits = value_bits(format, dtype)
    return SignView(
        keys=keys((v for v in values if v > 0), dtype),
        not_positive=sum(v <= 0 for v in values),
        bits=bits if sign > 0 else bits[::-1].copy(),
        ulp_exponents=np.array(ulp_exponents, np.int64),
        starts=np.array([(a + half) % (2 * half) - half for a, _ in ends], np.int64),
        divisors=np.array([min(b - a, 2**63 - 1) for a, b in ends], np.int64),
    )


def _ulp_exponent(v: float) -> int:
    """Exponent of the greatest power of two that divides v ≠ 0."""
    numerator, denominator = abs(v).as_integer_ratio()
    return (numerator & -numerator).bit_length() - denominator.bit_length()


def _multiple(v: float, exponent: int) -> int:
    """v/2^exponent, an integer."""
    numerator, denominator = v.as_integer_ratio()
    shift = exponent + denominator.bit_length() - 1
    return numerator << -shift if shift <= 0 else numerator >> shift


def _computing(dtype: SourceDtype, format: TableFormat) -> SourceDtype:
    """The dtype, in 64-bit integers where a divisor needs more than the 30 bits that long division
    has in 32.
    """
    for candidate in (dtype, dtype.wide()):
        divisors = sign_view_of(format, candidate, 1).divisors
        if divisors.max() < 1 << (candidate.width - 2):
            return candidate
    raise ValueError(
        f"{format} has neighbours more than 2^62 units of their last place apart, too far for exact"
        " stochastic rounding; give its values fewer significant bits"
    )


def _units(ctx: Context, scaled: Magnitude) -> tuple[Array, tuple[Array, Array]]:
    """⌊sig·2^ulp⌋ modulo 2^width, and the tail (sig, number of its low bits that lie below the
    unit).
    """
    xp, most = ctx.xp, ctx.dtype.width - 1
    sig, ulp = scaled
    up = xp.shift_left(sig, xp.clip(ulp, 0, most))
    down = xp.shift_right(sig, xp.clip(0 - ulp, 0, most))
    return xp.where(ulp >= 0, up, down), (sig, xp.maximum(0 - ulp, 0))


def _divide(
    ctx: Context, remainder: Array, tail: tuple[Array, Array], divisor: Array, bits: int
) -> tuple[Array, Array]:
    """(high, low) of ν = (remainder + tail)/divisor < 1: `bits` quotient bits, then whether
    anything is left.

    remainder < divisor < 2^(width-2), so twice the remainder plus a bit of the tail never
    overflows.
    """
    xp, width = ctx.xp, ctx.dtype.width
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
