"""Which neighbour a number is rounded to (clause RND-4): a function of value and random bits."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from ._util.checks import check_choice, check_int, suggestion
from .arrays import Array, Namespace

DETERMINISTIC = (
    "nearest_even",
    "nearest_away",
    "nearest_zero",
    "nearest_up",
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
    "nearest_zero": ("ties_to_zero", "nearest_ties_to_zero", "half_zero"),
    "nearest_up": ("ties_up", "half_up"),
    "stochastic_a": ("stochastic", "sr"),
}
"""Mode → what IEEE 754, P3109, RISC-V, CUDA and others call it; case and "_" do not count."""

_MODES = {
    name.replace("_", ""): mode
    for mode in DETERMINISTIC + STOCHASTIC
    for name in (mode, *ALIASES.get(mode, ()))
}


class Fractions(NamedTuple):
    """What a rounding mode of one's own sees of each number between two neighbours: masks and
    integer arrays of the number's library. ν is its distance from the neighbour toward zero, as a
    part of the distance between both.
    """

    above_half: Array
    """ν > 1/2; in formats with boundaries of their own, beyond the boundary (clause RND-12)."""
    half: Array
    """ν = 1/2, or on the boundary."""
    inexact: Array
    """ν > 0: elsewhere the number is a value and stays, whatever the mode says."""
    odd: Array
    """Whether the neighbour toward zero is odd (clause RND-5)."""
    negative: Array
    """The sign of the number."""
    top: Array | None = None
    """⌊ν·2^N⌋ in modes with N random bits, as an integer from 0 to 2^N - 1 for N < 32, and for 32
    as the int32 of these bits."""
    random: Array | None = None
    """N random bits of each number, in the same form."""


Rule = Callable[[Fractions], Array]
"""A mask of the numbers that go to the neighbour away from zero."""


class _Registered(NamedTuple):
    rule: Rule
    stochastic: bool


REGISTERED: dict[str, _Registered] = {}
"""Modes of one's own, by name."""


@dataclass(frozen=True)
class Rounding:
    """A rounding mode, with the number of random bits that it draws: 1..32 for the stochastic
    modes, 0 for the others. Modes of one's own: `register_rounding`.

    >>> str(Rounding("stochastic_b", 8)), str(Rounding.parse("stochastic"))
    ('stochastic_b<8>', 'stochastic_a')
    >>> Rounding.parse("nearest_even").stochastic
    False
    """

    mode: str
    random_bits: int = -1
    rule: Rule | None = field(default=None, init=False, repr=False)
    """The function of a mode of one's own; part of what makes two roundings equal."""

    def __post_init__(self) -> None:
        if self.mode in REGISTERED:
            object.__setattr__(self, "rule", REGISTERED[self.mode].rule)
        else:
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
        own = REGISTERED.get(self.mode)
        return self.mode in STOCHASTIC if own is None else own.stochastic

    def __reduce__(self) -> tuple[type[Rounding], tuple[str, int]]:
        return Rounding, (self.mode, self.random_bits)  # functions are often not to be pickled

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
    own = re.fullmatch(r"\s*(\w+)\s*(?:<\s*(\d+)\s*>)?\s*", text)
    if own is not None and own[1] in REGISTERED:
        return Rounding(own[1], int(own[2]) if own[2] else -1)
    parts = re.fullmatch(r"\s*(?:round_?)?(\w+)\s*(?:<\s*(\d+)\s*>)?\s*", text, re.IGNORECASE)
    name = parts[1].replace("_", "").lower() if parts else ""
    if parts is None or name not in _MODES:
        known = ("stochastic", *DETERMINISTIC, *STOCHASTIC, *REGISTERED)
        meant = "; did you mean 'nearest_even'?" if name == "nearest" else suggestion(text, known)
        raise ValueError(
            f"rounding must be one of {', '.join(known)}, the stochastic ones with <bits> if not"
            f" 32; got {text!r}{meant}"
        )
    return Rounding(_MODES[name], int(parts[2]) if parts[2] else -1)


def register_rounding(name: str, rule: Rule, *, stochastic: bool = False) -> Rounding:
    """Let a name stand for a rounding mode of one's own, wherever a rounding is named.

    It then serves every array library and every format, in the reference implementation. A number
    beyond the range goes there as in the nearest modes (clause RND-7).

    Parameters
    ----------
    name : an identifier that is no built-in mode; an earlier mode of that name is replaced.
    rule : a function of `Fractions` that gives a mask: where the number goes to the neighbour away
        from zero. Of a mode that is not stochastic the result must not fall as the number grows.
    stochastic : whether it draws random bits; a number of them is written as in `name<8>`.

    Returns
    -------
    The rounding.

    Raises
    ------
    ValueError: if the name is built in, or no identifier.
    TypeError: if `rule` cannot be called.

    >>> import qemu_swalp as q
    >>> half_down = register_rounding("half_down", lambda f: f.above_half)
    >>> q.quantize([0.5, 1.5, 1.6, -2.5], "fixed<8,0>", "half_down").tolist()
    [0.0, 1.0, 2.0, -2.0]
    >>> unregister_rounding("half_down")
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"name must be an identifier, such as 'half_down', got {name!r}")
    if name.replace("_", "").lower() in _MODES:
        raise ValueError(f"the rounding mode {name!r} is built in; choose another name")
    if not callable(rule):
        raise TypeError(f"rule must be a function of Fractions, got {rule!r}")
    REGISTERED[name] = _Registered(rule, bool(stochastic))
    _parsed.cache_clear()
    return Rounding(name)


def unregister_rounding(name: str) -> None:
    """Forget a mode that `register_rounding` has named. ValueError without one."""
    if name not in REGISTERED:
        raise ValueError(f"no rounding mode of that name is registered, got {name!r}")
    del REGISTERED[name]
    _parsed.cache_clear()


class Choice(NamedTuple):
    """What chooses between the two neighbours of each element."""

    rounding: Rounding
    negative: Array = None
    """Mask of the sign; nearest_even does without."""
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
    if choice.rounding.rule is not None:
        return _by_rule(xp, choice, high, low, odd)
    if mode == "toward_zero":
        return high != high
    if mode == "nearest_away":
        return high < 0
    beyond = ((high ^ top) | low) != 0
    if mode == "nearest_even":
        return (high < 0) & (beyond | (odd == 1))
    if mode == "nearest_zero":
        return (high < 0) & beyond
    if mode == "nearest_up":
        return (high < 0) & (beyond | ~negative)
    inexact = (high | low) != 0
    if mode == "toward_positive":
        return inexact & ~negative
    if mode == "toward_negative":
        return inexact & negative
    if mode == "to_odd":
        return inexact & (odd == 0)
    return _carries(xp, choice, high, low)


def _by_rule(xp: Namespace, choice: Choice, high: Array, low: Array, odd: Array) -> Array:
    """What the function of a mode of one's own says of inexact numbers."""
    width, rounding = xp.width(high), choice.rounding
    inexact = (high | low) != 0
    rest = ((high ^ -(1 << (width - 1))) | low) != 0
    negative = high != high if choice.negative is None else choice.negative
    top = random = None
    if rounding.stochastic:
        n = rounding.random_bits
        most = (1 << n) - 1
        top = xp.shift_right(high, width - n) & most if n < 32 else xp.shift_right(high, width - 32)
        words = xp.cast(choice.words, 32)
        random = xp.shift_right(words, 32 - n) & most if n < 32 else words
        random = xp.cast(random, width)
    fractions = Fractions(
        (high < 0) & rest, (high < 0) & ~rest, inexact, odd == 1, negative, top, random
    )
    return rule_mask(rounding, fractions) & inexact


def rule_mask(rounding: Rounding, fractions: Fractions) -> Array:
    """The rule's mask. TypeError where it gives something else."""
    mask = rounding.rule(fractions) if rounding.rule is not None else None
    if "bool" not in str(getattr(mask, "dtype", None)):
        raise TypeError(
            f"the rule of the rounding mode {rounding.mode} must give a boolean array, got"
            f" {type(mask).__qualname__}; combine the masks of Fractions with & | ~"
        )
    return mask


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
