"""What becomes of numbers that a format has no value for (clauses FMT-8, FMT-9, RND-7, RND-8)."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from ..rounding import Rounding
from .base import ElementFormat
from .binade import BinadeFormat
from .block import Block


class OverflowResult(IntEnum):
    """What a class of numbers becomes."""

    BOUND = 0
    """The end of the range."""
    INFINITY = 1
    NAN = 2
    LEAST = 3
    """The least positive value."""
    ZERO = 4


BOUND, INFINITY, NAN, LEAST, ZERO = OverflowResult


class OverflowResults(NamedTuple):
    """What finite numbers above and below the range become, the infinities, and what rounds to
    zero.
    """

    above: OverflowResult
    below: OverflowResult
    positive_infinity: OverflowResult
    negative_infinity: OverflowResult
    zero: OverflowResult


def overflow_results(
    format: ElementFormat | Block, policy: str, rounding: Rounding
) -> OverflowResults:
    """What an overflow policy makes of each class of numbers; of the elements of a block format,
    the policy in force.

    >>> from qemu_swalp import Rounding, parse
    >>> overflow_results(parse("e5m2"), "infinity", Rounding.parse("nearest_even")).above.name
    'INFINITY'
    """
    if isinstance(format, Block):
        results = overflow_results(format.element, format.element_overflow(policy), rounding)
        if policy not in ("propagate", "nan"):
            return results
        alone = INFINITY if policy == "propagate" else NAN  # clause BLK-13
        return results._replace(positive_infinity=alone, negative_infinity=alone)
    one_sided = format.min >= 0
    lacks_zero = isinstance(format, BinadeFormat) and not format.has_zero
    if policy in ("saturate", "propagate"):
        up = down = BOUND
        if policy == "propagate":
            up = down = INFINITY if format.has_infinity else NAN
            if format.has_infinity and one_sided:
                down = BOUND
        return OverflowResults(BOUND, BOUND, up, down, LEAST if lacks_zero else ZERO)
    up = NAN if policy == "nan" else INFINITY
    down = NAN if one_sided else up
    stays_above, stays_below = (
        format.stays_in_range(rounding.mode, policy, above) for above in (True, False)
    )
    if lacks_zero and one_sided:  # clause FMT-9
        stays_below = False
    return OverflowResults(
        BOUND if stays_above else up,
        BOUND if stays_below else down,
        up,
        down,
        NAN if lacks_zero else ZERO,
    )
