"""Rounding to a table under the scales of blocks (clause BLK-15).

|x/s| is rounded to odd at 53 significant bits, which is exact for every comparison with a number of
at most 52. Where integers have 64 bits that is a float64. Where they have 32 it is a *head*, the
float32 below it, and a *tail*, the 29 bits that follow; its thresholds are cut in the same way.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..arrays import Array
from ..arrays.dtypes import SourceDtype
from ..formats import TableFormat
from ..rounding import Rounding
from .context import BINARY32, BINARY64, Context, Magnitude, Target
from .division import Number, number
from .overflow import OutOfRange
from .table import table_bits, thresholds_of
from .table_stochastic import TAIL_BITS, stochastic_rank
from .table_values import keys

FIFTY_THREE_BITS = SourceDtype("float32 with a tail", 64, 64, 52, BINARY32.bias)


class Quotient(NamedTuple):
    """|x/s|, rounded to odd."""

    head: Array
    """Magnitude bits in the dtype of the elements, cut toward zero."""
    tail: Array | None
    """The bits after it, as an integer; None where the head has them all."""


def element_dtype(dtype: SourceDtype) -> SourceDtype:
    """The dtype in which the elements of a table are computed, whatever the source has."""
    return BINARY32 if dtype.width == 32 else BINARY64


def least_of_tables(dtype: SourceDtype) -> float:
    """What the values of a table reach down to, zero apart: so that a quotient below the least
    normal number of `dtype` is below 2^-40 of them, which no mode tells from less.
    """
    return float(2.0 ** (41 - dtype.bias))


def round_scaled_table(
    ctx: Context,
    x: Array,
    format: TableFormat,
    target: Target,
    words: Array | None,
    scale: Number,
) -> Array:
    """x divided by the scale and rounded to the table, in `element_dtype`."""
    xp, elements = ctx.xp, ctx.of(element_dtype(ctx.dtype))
    magnitude, negative = ctx.magnitude_bits(x), ctx.negative(x)
    infinite = magnitude == ctx.dtype.infinity
    quotient = _quotient(ctx, xp.where(infinite, 1, magnitude), scale)
    head = xp.where(infinite, elements.dtype.infinity - 1, quotient.head)
    quotient = quotient._replace(head=head)
    if target.rounding.stochastic:
        significand, ulp = elements.split(head)
        rank = stochastic_rank(
            elements,
            head,
            negative & (magnitude != 0),
            Magnitude(significand, ulp),
            format,
            target.rounding,
            words,
            quotient.tail,
        )
    else:
        steps = _steps(format, elements.dtype, target.rounding)
        rank = _count(elements, quotient, negative & (magnitude != 0), steps)
    place = _count(elements, quotient, negative & (magnitude != 0), _ends(format, elements.dtype))
    masks = OutOfRange((place != 1) | infinite, (place == 0), infinite)
    bits = table_bits(elements, rank, format, target, negative, masks)
    bits = xp.where(magnitude > ctx.dtype.infinity, elements.dtype.nan, bits)
    return elements.floats(bits)


def _quotient(ctx: Context, magnitude: Array, scale: Number) -> Quotient:
    """Finite magnitudes divided by scales: long division, one bit at a time.

    Beyond the dtype of the elements they count as its greatest number; below its least normal one
    as a number between zero and all values of the table (`check_representable`).
    """
    xp, width, s = ctx.xp, ctx.dtype.width, ctx.dtype.significand
    dtype = element_dtype(ctx.dtype)
    dividend = number(ctx, ctx.split(magnitude))
    tail_bits = TAIL_BITS[width]
    tail = 0 * magnitude
    if scale.significand is None:
        e, n = dividend.exponent - scale.exponent, dividend.significand
    else:
        d = scale.significand
        less = dividend.significand < d
        e = dividend.exponent - scale.exponent - xp.cast(less, width)
        remainder = xp.where(less, dividend.significand * 2, dividend.significand) - d
        n = 1 + tail
        for i in range(s + tail_bits):
            doubled = remainder * 2
            one = doubled >= d
            remainder = xp.where(one, doubled - d, doubled)
            if i < s:
                n = n * 2 + xp.cast(one, width)
            else:
                tail = tail * 2 + xp.cast(one, width)
        rest = xp.cast(remainder != 0, width)
        if tail_bits:
            tail = tail | rest
        else:
            n = n | rest
    top = (1 << s) - 1
    field = xp.clip(e + dtype.bias, 0, 2 * dtype.bias)
    head = xp.shift_left(field, s) | (n & top)
    least = 0 if tail_bits else 1
    beyond, below = e > dtype.bias, e < 1 - dtype.bias
    head = xp.where(beyond, dtype.infinity - 1, xp.where(below, least, head))
    tail = xp.where(beyond | below, 1, tail)
    absent = magnitude == 0
    head, tail = xp.where(absent, 0, head), xp.where(absent, 0, tail)
    return Quotient(head, tail if tail_bits else None)


class Steps(NamedTuple):
    """Ascending thresholds T of signed numbers, as magnitudes see them: those of positive numbers,
    then T' = 1 - T of negative ones, each as heads and tails.
    """

    positive: tuple[np.ndarray, np.ndarray]
    not_positive: int
    """How many T ≤ 0."""
    negative: tuple[np.ndarray, np.ndarray]


@lru_cache(maxsize=1024)
def _steps(format: TableFormat, dtype: SourceDtype, rounding: Rounding) -> Steps:
    """Where a mode goes from each value to the next."""
    return _cut(thresholds_of(format, _exact(dtype), rounding), dtype)


@lru_cache(maxsize=256)
def _ends(format: TableFormat, dtype: SourceDtype) -> Steps:
    """The least value, and what is just above the greatest one."""
    return _cut(keys((format.min, format.max), _exact(dtype)) + np.array([0, 1]), dtype)


def cut_thresholds(format: TableFormat, rounding: Rounding) -> np.ndarray:
    """The thresholds of a mode as keys of float32, which quotients reach that are cut to it and do
    not lie within a unit in the last place below: rounded away from zero.
    """
    exact = thresholds_of(format, FIFTY_THREE_BITS, rounding)
    bits, unit = TAIL_BITS[32], (1 << TAIL_BITS[32]) - 1
    # of negative numbers T' = 1 - T is what magnitudes reach
    cut: np.ndarray = np.where(exact >= 0, (exact + unit) >> bits, 1 - ((1 - exact + unit) >> bits))
    return cut


def _exact(dtype: SourceDtype) -> SourceDtype:
    return FIFTY_THREE_BITS if dtype is BINARY32 else dtype


def _cut(thresholds: np.ndarray, dtype: SourceDtype) -> Steps:
    bits = TAIL_BITS[dtype.width]

    def halves(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return numbers >> bits, numbers & ((1 << bits) - 1)

    negative = 1 - thresholds[thresholds < 0][::-1]
    return Steps(halves(thresholds[thresholds > 0]), int((thresholds <= 0).sum()), halves(negative))


def _count(ctx: Context, quotient: Quotient, negative: Array, steps: Steps) -> Array:
    """How many thresholds are at most the signed quotient: for a negative one those below zero
    less those that lie above it, T > -y or T' = 1 - T ≤ y.
    """
    below = len(steps.negative[0]) - _reached(ctx, quotient, steps.negative)
    above = steps.not_positive + _reached(ctx, quotient, steps.positive)
    return ctx.xp.where(negative, below, above)


def _reached(ctx: Context, quotient: Quotient, steps: tuple[np.ndarray, np.ndarray]) -> Array:
    """How many ascending numbers are at most the quotient.

    At most two have one head: each interval (u, w] of adjacent values holds one threshold, and
    values have no tails.
    """
    xp, (heads, tails) = ctx.xp, steps
    if not len(heads):
        return 0 * quotient.head
    count = xp.searchsorted(heads, quotient.head)
    if quotient.tail is None:
        return count
    for _ in range(2):
        last = xp.maximum(count - 1, 0)
        early = (xp.take(heads, last) == quotient.head) & (quotient.tail < xp.take(tails, last))
        count = count - xp.cast(early & (count > 0), ctx.dtype.width)
    return count
