"""Rounding to a table of values (clauses RND-3, RND-4, RND-6, RND-12).

A deterministic mode is a monotone step function, so it is defined by where it steps: for each pair
of adjacent values the least number of the source dtype that becomes the upper one. These come from
exact fractions on the host, and the device searches them. Stochastic modes: `table_stochastic`.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

import numpy as np

from ..arrays import Array
from ..arrays.dtypes import SourceDtype
from ..formats import TableFormat
from ..rounding import Fractions, Rounding, rule_mask
from .context import Context, Target
from .element import finish
from .overflow import OutOfRange, overflow_bits, results_of
from .table_stochastic import stochastic_rank
from .table_values import keys, magnitude_bits, value_bits


def round_table(
    ctx: Context, x: Array, format: TableFormat, target: Target, words: Array | None = None
) -> Array:
    """x rounded to the values of the format, which is the target's; `words` as for
    `round_binade`.
    """
    xp, dtype = ctx
    magnitude, key = signed_key(ctx, x)
    if target.rounding.stochastic:
        negative = ctx.negative(x) & (magnitude != 0)
        split = ctx.split(magnitude)
        rank = stochastic_rank(ctx, magnitude, negative, split, format, target.rounding, words)
    else:
        rank = xp.searchsorted(thresholds_of(format, dtype, target.rounding), key)
    low, high = map(int, keys((format.min, format.max), dtype))
    masks = OutOfRange((key < low) | (key > high), key < low, magnitude == dtype.infinity)
    bits = table_bits(ctx, rank, format, target, ctx.negative(x), masks)
    return finish(ctx, x, magnitude, bits)


def table_bits(
    ctx: Context,
    rank: Array,
    format: TableFormat,
    target: Target,
    negative: Array,
    masks: OutOfRange,
) -> Array:
    """Bits of the values of those ranks, or of what the target's policy makes of what is out of
    range. negative : mask of the sign bit.
    """
    xp, dtype = ctx
    bits = xp.take(value_bits(format, dtype), rank)
    if format.has_negative_zero:
        bits = xp.where(negative & (bits == 0), dtype.sign, bits)
    if target.policy == "saturate":
        return bits
    magnitudes = bits & ~dtype.sign
    return bits - magnitudes + overflow_bits(ctx, results_of(target), magnitudes, masks)


def signed_key(ctx: Context, x: Array) -> tuple[Array, Array]:
    """(magnitude bits, integers that order like the elements); -0 counts as 0."""
    magnitude = ctx.magnitude_bits(x)
    return magnitude, ctx.xp.where(ctx.negative(x), 0 - magnitude, magnitude)


@lru_cache(maxsize=1024)
def thresholds_of(format: TableFormat, dtype: SourceDtype, rounding: Rounding) -> np.ndarray:
    """For each pair of adjacent values, the least key that becomes the upper one."""
    boundaries: Sequence[Fraction | None] = format.boundaries or [None] * (format.value_count - 1)
    pairs = zip(pairwise(map(Fraction, format.finite)), boundaries, strict=True)
    thresholds = (
        _threshold(rounding, low, high, boundary, (format.first_place + i) % 2 == 1)
        for i, ((low, high), boundary) in enumerate(pairs)
    )
    return np.array([_least_key(at, included, dtype) for at, included in thresholds], np.int64)


def _threshold(
    rounding: Rounding, low: Fraction, high: Fraction, boundary: Fraction | None, odd: bool
) -> tuple[Fraction, bool]:
    """Where a mode goes from low to high, and whether the number there becomes high already.
    `odd`: whether low's rank is.
    """
    if rounding.rule is not None:
        return _threshold_of_rule(rounding, low, high, boundary, odd)
    mode = rounding.mode
    if (
        mode == "toward_positive"
        or (mode == "to_odd" and not odd)
        or (mode == "toward_zero" and high <= 0)
    ):
        return low, False
    if mode in ("toward_negative", "to_odd") or (mode == "toward_zero" and low >= 0):
        return high, True
    if mode == "toward_zero":  # from both sides of a zero that is no value (clause RND-6)
        return Fraction(0), True
    at = (low + high) / 2 if boundary is None else boundary
    if at in (low, high):  # a value is exact and stays
        return at, at == high
    ties = {"nearest_even": odd, "nearest_away": at >= 0, "nearest_zero": at < 0}
    return at, ties.get(mode, True)


def _threshold_of_rule(
    rounding: Rounding, low: Fraction, high: Fraction, boundary: Fraction | None, odd: bool
) -> tuple[Fraction, bool]:
    """The same of a mode of one's own, which is asked on every side of the boundary and of zero."""
    at = (low + high) / 2 if boundary is None else boundary
    inner = sorted({p for p in (at, Fraction(0)) if low < p < high})
    ends = [low, *inner, high]
    points = [(a + b) / 2 for a, b in pairwise(ends)]
    points = sorted([*points, *inner])
    negative = np.array([point < 0 for point in points])
    side = np.array([(point > at) - (point < at) for point in points])
    above = side * np.where(negative, -1, 1)  # as seen from the neighbour toward zero
    ranks = np.where(negative, not odd, odd)
    fractions = Fractions(above > 0, above == 0, above == above, ranks, negative)
    rises = rule_mask(rounding, fractions) ^ negative
    if (np.diff(rises.astype(int)) < 0).any():
        raise ValueError(
            f"the rounding mode {rounding.mode} falls between {float(low)!r} and {float(high)!r},"
            " where numbers grow; a table needs modes that do not"
        )
    if not rises.any():
        return high, True
    first = int(rises.argmax())
    if points[first] in inner:
        return points[first], True
    return max(p for p in ends if p < points[first]), False


def _least_key(at: Fraction, included: bool, dtype: SourceDtype) -> int:
    """The least key at or above a number; above it where the number itself is not included."""
    bits, exact = magnitude_bits(dtype, *abs(at).as_integer_ratio())
    floor = bits if at >= 0 else -bits - (not exact)
    return floor if exact and included else floor + 1
