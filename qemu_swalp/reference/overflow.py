"""What leaves the range and does not saturate (clauses FMT-8, RND-7, RND-8)."""

from __future__ import annotations

from ..arrays import Array, Namespace
from ..arrays.dtypes import SourceDtype
from ..formats import ElementFormat
from ..rounding import Rounding

MARK = "mark"
"""A policy for this package alone: what is out of range becomes NaN, in every format and mode, so
as to be counted.
"""


def overflow_result(
    xp: Namespace,
    carrier: SourceDtype,
    format: ElementFormat,
    overflow: str,
    rounding: Rounding,
    bits: Array,
    below: Array,
    beyond: Array,
    infinite: Array,
) -> Array:
    """Magnitude bits, with those of infinity or NaN where the policy has it so.

    bits : where saturation leads. beyond : mask of the elements out of range; below : of those at
        its lower end.
    infinite : mask of the infinite elements, which are out of range.
    """
    if overflow == "saturate":
        return bits
    if overflow == MARK:
        return xp.where(beyond, carrier.nan, bits)
    one_sided = format.min >= 0
    if overflow == "propagate":
        if not format.has_infinity:
            return xp.where(infinite, carrier.nan, bits)
        return xp.where(infinite & ~below if one_sided else infinite, carrier.infinity, bits)
    escaped = beyond
    if format.stays_in_range(rounding.mode, overflow, above=True):
        escaped = escaped & (below | infinite)
    if format.stays_in_range(rounding.mode, overflow, above=False):
        escaped = escaped & (~below | infinite)
    if overflow == "nan":
        return xp.where(escaped, carrier.nan, bits)
    bits = xp.where(escaped, carrier.infinity, bits)
    return xp.where(escaped & below, carrier.nan, bits) if one_sided else bits
