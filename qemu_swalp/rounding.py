"""Layer 2: which neighbour is taken (clause RND-4). Pure functions of value and random bits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from ._util.checks import check_choice, check_int, suggestion
from .arrays import Array, Namespace

DETERMINISTIC = (
    "nearest_even",
    "nearest_away",
    "toward_zero",
    "toward_positive",
    "toward_negative",
    "to_odd",
)
STOCHASTIC = ("stochastic_a", "stochastic_b", "stochastic_c")


@dataclass(frozen=True)
class Rounding:
    """A rounding mode; `random_bits` (1..32) counts for the stochastic ones, and is 0 for the
    others.

    >>> str(Rounding("stochastic_b", 8)), str(Rounding.parse("stochastic")), Rounding.parse("nearest_even").stochastic
    ('stochastic_b<8>', 'stochastic_a', False)
    """

    mode: str
    random_bits: int = -1

    def __post_init__(self) -> None:
        check_choice("rounding mode", self.mode, DETERMINISTIC + STOCHASTIC)
        if self.random_bits == -1:
            object.__setattr__(self, "random_bits", 32 if self.stochastic else 0)
        check_int(
            f"random_bits of {self.mode}",
            self.random_bits,
            *((1, 32) if self.stochastic else (0, 0)),
        )

    @property
    def stochastic(self) -> bool:
        return self.mode in STOCHASTIC

    def __str__(self) -> str:
        return (
            f"{self.mode}<{self.random_bits}>"
            if self.stochastic and self.random_bits < 32
            else self.mode
        )

    @staticmethod
    def parse(text: str | Rounding) -> Rounding:
        """From a string such as "nearest_even", "stochastic" (that is, stochastic_a<32>) or
        "stochastic_c<8>".
        """
        if isinstance(text, Rounding):
            return text
        if not isinstance(text, str):
            raise TypeError(f"rounding must be a string or a Rounding, got {text!r}")
        return _parsed(text)


@lru_cache(maxsize=256)
def _parsed(text: str) -> Rounding:
    found = re.fullmatch(r"\s*(\w+)\s*(?:<\s*(\d+)\s*>)?\s*", text)
    known = ("stochastic", *DETERMINISTIC, *STOCHASTIC)
    if found is None or found[1] not in known:
        raise ValueError(
            f"rounding must be one of {', '.join(known)}, the stochastic ones with <bits> if not"
            f" 32; got {text!r}{suggestion(text, known)}"
        )
    mode = "stochastic_a" if found[1] == "stochastic" else found[1]
    return Rounding(mode, int(found[2]) if found[2] else -1)


def rounds_up(
    xp: Namespace,
    rounding: Rounding,
    high: Array,
    low: Array,
    odd: Array,
    negative: Array,
    words: Array | None,
) -> Array:
    """Mask of the elements that take the candidate away from zero.

    high, low : the fraction ν as two unsigned words in signed integer arrays of width W: ν·2^W =
        high + low/2^W, where the last bit of `low` may stand for all that is left of ν.
    odd : 0/1 parity of the candidate toward zero. negative : mask of the sign.
    words : random words in the top 32 bits of a W-bit integer, for stochastic modes.
    """
    width = xp.width(high)
    top = -(1 << (width - 1))
    mode = rounding.mode
    if mode == "toward_zero":
        return high != high
    if mode == "nearest_away":
        return high < 0
    inexact = (high | low) != 0
    if mode == "toward_positive":
        return inexact & ~negative
    if mode == "toward_negative":
        return inexact & negative
    if mode == "to_odd":
        return inexact & (odd == 0)
    if mode == "nearest_even":
        return (high < 0) & ((((high ^ top) | low) != 0) | (odd == 1))
    return _carries(xp, rounding, high, low, words, width)


def _carries(
    xp: Namespace, rounding: Rounding, high: Array, low: Array, words: Array, width: int
) -> Array:
    """⌊ν·2^N⌋ + R (+ 1 for B and C where ν·2^N rounds up) ≥ 2^N, as a carry out of left-aligned
    W-bit sums.

    B: ⌊ν·2^(N+1)⌋ + 2R + 1 ≥ 2^(N+1) with ⌊ν·2^(N+1)⌋ = 2F + b, so F + R + b ≥ 2^N: round half up.
    """
    n = rounding.random_bits
    kept = -(1 << (width - n))
    floor, r = high & kept, words & kept
    carry = ((floor + r) ^ -(1 << (width - 1))) < (floor ^ -(1 << (width - 1)))
    if rounding.mode == "stochastic_a":
        return carry
    next_bit = (low < 0) if n == width else ((xp.shift_right(high, width - 1 - n) & 1) == 1)
    if rounding.mode == "stochastic_c":
        if n == width:
            below, last = (low & ~-(1 << (width - 1))) != 0, (high & 1) == 1
        else:
            below = ((high & ((1 << (width - 1 - n)) - 1)) | low) != 0
            last = (xp.shift_right(high, width - n) & 1) == 1
        next_bit = next_bit & (below | last)
    return carry | (next_bit & ((floor + r) == kept))
