"""Tapered formats whose codes order like their values (clauses FMT-12, FMT-13, RND-12)."""

from __future__ import annotations

import math
from abc import abstractmethod
from fractions import Fraction
from functools import cached_property

from .table import RealTable


class TwosComplementTable(RealTable):
    """Codes are two's complement integers: 0 is zero, the least is NaR ("not a real", here NaN), -c
    stands for minus c.

    A family needs the field `word`, 2..16 bits, and `magnitude`. The nearest modes step where a
    code with one bit more, a 1 appended, stands; next to zero they step at zero, so that nothing
    but zero becomes zero.
    """

    word: int

    @abstractmethod
    def magnitude(self, code: int, word: int) -> Fraction:
        """What a positive code of so many bits stands for; an irrational number as `boundaries` may
        give it.
        """

    def float_of(self, code: int) -> float:
        """The float64 that stands for a positive code."""
        return float(self.magnitude(code, self.word))

    def __post_init__(self) -> None:
        self.check_overflow(self.overflow)

    @cached_property
    def table(self) -> tuple[float, ...]:
        positive = [self.float_of(code) for code in range(1, 1 << (self.word - 1))]
        return (0.0, *positive, math.nan, *(-v for v in reversed(positive)))

    @cached_property
    def boundaries(self) -> tuple[Fraction, ...]:
        codes = range(1, (1 << (self.word - 1)) - 1)
        between = [self.magnitude(2 * code + 1, self.word + 1) for code in codes]
        return (*(-v for v in reversed(between)), Fraction(0), Fraction(0), *between)

    @property
    def first_place(self) -> int:
        return 1 - (1 << (self.word - 1))
