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
from typing import NamedTuple

import numpy as np

from ..arrays import Array
from ..arrays.dtypes import SourceDtype
from ..formats import TableFormat
from ..rounding import Choice, Rounding, rounds_up
from .context import Context, Magnitude
from .table_values import keys, value_bits

TAIL_BITS = {32: 29, 64: 0}
"""Width of integers → the bits of a tail, which with those of a head make 53 (`scaled_table`)."""


class Digits(NamedTuple):
    """Numbers (sig + tail/2^tail_bits)·2^ulp ≥ 0, in units of their intervals."""

    sig: Array
    ulp: Array
    tail: Array | None
    tail_bits: int


def stochastic_rank(
    ctx: Context,
    magnitude: Array,
    negative: Array,
    split: Magnitude,
    format: TableFormat,
    rounding: Rounding,
    words: Array | None,
    tail: Array | None = None,
) -> Array:
    """Ranks of the chosen values.

    magnitude : magnitude bits; `split` is their number. tail : `TAIL_BITS` that follow the last one
        of `split`.
    """
    width = ctx.dtype.width
    ctx = ctx.of(_computing(ctx.dtype, format))
    xp = ctx.xp
    if ctx.dtype.width != width:
        magnitude, tail, *parts = (
            None if part is None else xp.cast(part, ctx.dtype.width)
            for part in (magnitude, tail, *split)
        )
        split = Magnitude(*parts)
    tail_bits, width = 0 if tail is None else TAIL_BITS[width], ctx.dtype.width
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
    ulp = split.ulp - look_up(lambda view: view.ulp_exponents, index)
    digits = Digits(split.sig, ulp, tail, tail_bits)
    start = look_up(lambda view: view.starts, index)
    remainder = xp.where(outside, 0, _units(ctx, digits) - start)
    high, low = _divide(ctx, remainder, digits, divisor, rounding.random_bits + 1)
    away = rounds_up(xp, Choice(rounding, negative, words), high, low, 0 * index)
    chosen = xp.clip(xp.where(outside, i, index + xp.cast(away, width)), 0, last)
    return xp.where(negative, last - chosen, chosen)


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


def _units(ctx: Context, digits: Digits) -> Array:
    """⌊(sig + tail/2^tail_bits)·2^ulp⌋ modulo 2^width."""
    xp, most = ctx.xp, ctx.dtype.width - 1
    sig, ulp, tail, tail_bits = digits
    up = _shifted_left(ctx, sig, ulp)
    if tail is not None:
        right = xp.shift_right(tail, xp.clip(tail_bits - ulp, 0, most))
        up = up + xp.where(ulp > tail_bits, _shifted_left(ctx, tail, ulp - tail_bits), right)
    down = xp.shift_right(sig, xp.clip(0 - ulp, 0, most))
    return xp.where(ulp >= 0, up, down)


def _shifted_left(ctx: Context, n: Array, count: Array) -> Array:
    """n·2^count modulo 2^width, for count ≥ 0."""
    shifted = ctx.xp.shift_left(n, ctx.xp.clip(count, 0, ctx.dtype.width - 1))
    return ctx.xp.where(count < ctx.dtype.width, shifted, 0)


def _divide(
    ctx: Context, remainder: Array, digits: Digits, divisor: Array, bits: int
) -> tuple[Array, Array]:
    """(high, low) of ν = (remainder + the digits below the unit)/divisor < 1: `bits` quotient bits,
    then whether anything is left.

    remainder < divisor < 2^(width-2), so twice the remainder plus a digit never overflows.
    """
    xp, width = ctx.xp, ctx.dtype.width
    sig, ulp, tail, tail_bits = digits
    count = xp.maximum(tail_bits - ulp, 0)
    high = low = 0 * remainder
    for i in range(bits):
        position = count - (i + 1)
        of_sig = xp.shift_right(sig, xp.clip(position - tail_bits, 0, width - 1)) & 1
        bit = xp.where(position >= tail_bits, of_sig, 0)
        if tail is not None:
            of_tail = xp.shift_right(tail, xp.clip(position, 0, width - 1)) & 1
            bit = xp.where((position >= 0) & (position < tail_bits), of_tail, bit)
        remainder = remainder * 2 + bit
        one = xp.cast(remainder >= divisor, width)
        remainder = remainder - one * divisor
        if i < width:
            high = high | xp.shift_left(one, width - 1 - i)
        else:
            low = xp.shift_left(one, width - 1)
    left = remainder | _low_bits(ctx, sig, count - bits - tail_bits)
    if tail is not None:
        left = left | _low_bits(ctx, tail, count - bits)
    return high, low | xp.cast(left != 0, width)


def _low_bits(ctx: Context, n: Array, count: Array) -> Array:
    """The lowest bits of n."""
    mask = ctx.xp.shift_left(0 * n + 1, ctx.xp.clip(count, 0, ctx.dtype.width - 2)) - 1
    return n & mask
