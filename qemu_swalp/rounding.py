"""Which neighbour a number is rounded to (clause RND-4): a function of value and random bits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

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

ALIASES = {
    "nearest_even": ("rne", "rn", "ties_to_even", "nearest_ties_to_even", "half_even"),
    "nearest_away": ("rna", "ties_to_away", "nearest_ties_to_away", "half_away"),
    "toward_zero": ("rtz", "rz", "truncate", "trunc"),
    "toward_positive": ("ru", "rup", "rtp", "ceil"),
    "toward_negative": ("rd", "rdn", "rtn", "floor"),
    "to_odd": ("rto", "odd", "jamming"),
    "stochastic_a": ("stochastic", "sr"),
}
"""Mode → what IEEE 754, P3109, RISC-V, CUDA and others call it; case and "_" do not count."""

_MODES = {
    name.replace("_", ""): mode
    for mode in DETERMINISTIC + STOCHASTIC
    for name in (mode, *ALIASES.get(mode, ()))
}


@dataclass(frozen=True)
class Rounding:
    """A rounding mode, with the number of random bits that it draws: 1..32 for the stochastic
    modes, 0 for the others.

    >>> str(Rounding("stochastic_b", 8)), str(Rounding.parse("stochastic"))
    ('stochastic_b<8>', 'stochastic_a')
    >>> Rounding.parse("nearest_even").stochastic
    False
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
    parts = re.fullmatch(r"\s*(?:round_?)?(\w+)\s*(?:<\s*(\d+)\s*>)?\s*", text, re.IGNORECASE)
    name = parts[1].replace("_", "").lower() if parts else ""
    if parts is None or name not in _MODES:
        known = ("stochastic", *DETERMINISTIC, *STOCHASTIC)
        meant = "; did you mean 'nearest_even'?" if name == "nearest" else suggestion(text, known)
        raise ValueError(
            f"rounding must be one of {', '.join(known)}, the stochastic ones with <bits> if not"
            f" 32; got {text!r}{meant}"
        )
    return Rounding(_MODES[name], int(parts[2]) if parts[2] else -1)


class Choice(NamedTuple):
    """What chooses between the two neighbours of each element."""

    rounding: Rounding
    negative: Array = None
    """Mask of the sign; the nearest modes do without."""
    words: Array = None
    """int32 random words, for stochastic modes."""


NEAREST = Rounding("nearest_even")
TO_NEAREST = Choice(NEAREST)


def rounds_up(xp: Namespace, choice: Choice, high: Array, low: Array, odd: Array) -> Array:
    """Mask of the elements that go to the neighbour away from zero.

    high, low : the fraction ν as two unsigned words in signed integer arrays of width W: ν·2^W =
        high + low/2^W, where the last bit of `low` may stand for all that is left of ν.
    odd : 0/1 parity of the neighbour toward zero.
    """
    width = xp.width(high)
    top = -(1 << (width - 1))
    mode, negative = choice.rounding.mode, choice.negative
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
    return _carries(xp, choice, high, low)


def _carries(xp: Namespace, choice: Choice, high: Array, low: Array) -> Array:
    """⌊ν·2^N⌋ + R (+ 1 for B and C where ν·2^N rounds up) ≥ 2^N, as a carry out of left-aligned
    W-bit sums.

    B: ⌊ν·2^(N+1)⌋ + 2R + 1 ≥ 2^(N+1) with ⌊ν·2^(N+1)⌋ = 2F + b, so F + R + b ≥ 2^N: round half up.
    """
    width, n = xp.width(high), choice.rounding.random_bits
    words = choice.words
    if width == 64:
        words = xp.shift_left(xp.cast(words, 64), 32)
    upper = -(1 << (width - n))
    floor, r = high & upper, words & upper
    carry = ((floor + r) ^ -(1 << (width - 1))) < (floor ^ -(1 << (width - 1)))
    if choice.rounding.mode == "stochastic_a":
        return carry
    next_bit = (low < 0) if n == width else ((xp.shift_right(high, width - 1 - n) & 1) == 1)
    if choice.rounding.mode == "stochastic_c":
        if n == width:
            below, last = (low & ~-(1 << (width - 1))) != 0, (high & 1) == 1
        else:
            below = ((high & ((1 << (width - 1 - n)) - 1)) | low) != 0
            last = (xp.shift_right(high, width - n) & 1) == 1
        next_bit = next_bit & (below | last)
    return carry | (next_bit & ((floor + r) == upper))
