"""What leaves the range and does not saturate (clauses FMT-8, RND-7, RND-8)."""

from __future__ import annotations

from typing import NamedTuple

from ..arrays import Array
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


def overflow_result(ctx: Context, target: Target, bits: Array, masks: OutOfRange) -> Array:
    """Magnitude bits, with those of infinity or NaN where the policy asks for them.

    bits : what saturation gives.
    """
    (xp, dtype), element = ctx, target.element
    beyond, below, infinite = masks
    if target.policy == "saturate":
        return bits
    if target.policy == MARK:
        return xp.where(beyond, dtype.nan, bits)
    one_sided = element.min >= 0
    if target.policy == "propagate":
        if not element.has_infinity:
            return xp.where(infinite, dtype.nan, bits)
        return xp.where(infinite & ~below if one_sided else infinite, dtype.infinity, bits)
    leaves = beyond
    if element.stays_in_range(target.rounding.mode, target.policy, above=True):
        leaves = leaves & (below | infinite)
    if element.stays_in_range(target.rounding.mode, target.policy, above=False):
        leaves = leaves & (~below | infinite)
    if target.policy == "nan":
        return xp.where(leaves, dtype.nan, bits)
    bits = xp.where(leaves, dtype.infinity, bits)
    return xp.where(leaves & below, dtype.nan, bits) if one_sided else bits
