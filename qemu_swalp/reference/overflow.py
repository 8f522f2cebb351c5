"""What leaves the range and does not saturate (clauses FMT-8, RND-7, RND-8)."""

from __future__ import annotations

from typing import NamedTuple

from ..arrays import Array
from ..formats import Block
from ..formats.overflow import INFINITY, NAN, OverflowResults, overflow_results
from .context import Context, Target

MARK = "mark"
"""A policy for this package alone: what is out of range becomes NaN, in every format and mode, so
as to be counted.
"""


class OutOfRange(NamedTuple):
    """Masks of elements."""

    beyond: Array
    """Out of range."""
    below: Array
    """Of those, the ones at the lower end."""
    infinite: Array
    """Of those, the infinities."""


def results_of(target: Target) -> OverflowResults:
    """What each class of numbers becomes."""
    if target.policy == MARK:
        return OverflowResults(NAN, NAN, NAN, NAN, NAN)
    format = target.format if isinstance(target.format, Block) else target.element
    return overflow_results(format, target.policy, target.rounding)


def overflow_bits(ctx: Context, results: OverflowResults, bits: Array, masks: OutOfRange) -> Array:
    """Magnitude bits, with those of infinity or NaN where `results` ask for them.

    bits : what saturation gives.
    """
    xp, dtype = ctx
    for result, special in ((INFINITY, dtype.infinity), (NAN, dtype.nan)):
        above, below, up, down = (each == result for each in results[:4])
        if above and below and up and down:
            bits = xp.where(masks.beyond, special, bits)
            continue
        if up or down:
            bits = xp.where(_at_ends(masks.infinite, masks.below, up, down), special, bits)
        if above or below:
            finite = masks.beyond & ~masks.infinite
            bits = xp.where(_at_ends(finite, masks.below, above, below), special, bits)
    return bits


def _at_ends(mask: Array, below: Array, upper: bool, lower: bool) -> Array:
    """The part of a mask at one end of the range, or at both."""
    if upper and lower:
        return mask
    return mask & ~below if upper else mask & below
