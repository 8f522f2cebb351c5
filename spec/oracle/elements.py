"""Element formats and grids (clauses FMT-1, FMT-2)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

from .exact import POLICIES


class Candidates(NamedTuple):
    """RND-2, RND-3: the neighbours of x, equal to x where it is exact; `odd` is the parity of the
    one toward zero.
    """

    toward: Fraction
    away: Fraction
    odd: bool


class Element(ABC):
    """FMT-1: a finite set of numbers, and what stands beside them."""

    signed: bool = True
    overflow: str | None = None

    @property
    def has_zero(self) -> bool:
        """FMT-4: whether zero is a value."""
        return True

    @property
    def has_negative_zero(self) -> bool:
        """FMT-6."""
        return False

    @property
    def has_infinity(self) -> bool:
        """FMT-6."""
        return False

    @property
    def nan_codes(self) -> Sequence[int]:
        """FMT-6: every code of a NaN."""
        return ()

    @property
    @abstractmethod
    def bits(self) -> int:
        """The width of a code (COD-2)."""

    @property
    @abstractmethod
    def low(self) -> Fraction:
        """FMT-2: min."""

    @property
    @abstractmethod
    def high(self) -> Fraction:
        """FMT-2: max."""

    @abstractmethod
    def candidates(self, x: Fraction) -> Candidates:
        """RND-2, RND-3."""

    def side(self, x: Fraction, toward: Fraction, away: Fraction) -> int:
        """RND-4, RND-12: -1, 0, 1 where x lies on the side of `toward`, on the boundary, on the
        side of `away`.
        """
        nearer = abs(x - toward) - abs(away - x)
        return (nearer > 0) - (nearer < 0)

    def stays(self, mode: str, policy: str, below: bool) -> bool:
        """RND-7: whether a finite number beyond an end of the range goes to that end in this
        mode.
        """
        if mode == "to_odd":
            return policy == "infinity" and self.is_odd_end(below)
        return mode in ("toward_zero", "toward_positive" if below else "toward_negative")

    def is_odd_end(self, below: bool) -> bool:
        """RND-7: whether the code of min or max is odd, of a table its place. Of formats with
        infinities alone this is asked.
        """
        raise NotImplementedError

    @abstractmethod
    def code(self, value: Fraction) -> int:
        """The code of a value, or ValueError (COD-1)."""

    @abstractmethod
    def decode(self, code: int) -> float:
        """What a code stands for, or ValueError where it stands for nothing."""

    @property
    def policies(self) -> tuple[str, ...]:
        """FMT-8: the overflow policies the format allows."""
        has_nan = bool(self.nan_codes)
        propagate = self.has_infinity or has_nan
        legal = {
            "saturate": True,
            "propagate": propagate,
            "infinity": self.has_infinity,
            "nan": has_nan,
        }
        return tuple(policy for policy in POLICIES if legal[policy])

    @property
    def policy(self) -> str:
        """FMT-8: the policy of a caller who names none."""
        return self.overflow or ("infinity" if self.has_infinity else "saturate")

    def codes(self) -> Iterator[tuple[int, float]]:
        """Every code that stands for something, with what it stands for."""
        for code in range(1 << self.bits):
            try:
                yield code, self.decode(code)
            except ValueError:
                continue

    def values(self) -> list[Fraction]:
        """FMT-1: the values, ascending."""
        return sorted({Fraction(value) for _, value in self.codes() if math.isfinite(value)})

    def encode(self, number: float) -> int:
        """COD-1, COD-2."""
        if math.isnan(number) and self.nan_codes:
            return self.canonical_nan
        if math.isfinite(number):
            return self.code(Fraction(number))
        raise ValueError(f"{number} is not in {self}")

    @property
    def canonical_nan(self) -> int:
        """COD-2: the code that NaN encodes to."""
        return self.nan_codes[0]


class Grid(Element):
    """FMT-2: sign and magnitude over an ascending sequence of points.

    The points do not end at `high`, since the range check comes after the rounding (RND-1).
    """

    @property
    @abstractmethod
    def least(self) -> Fraction:
        """The least positive value."""

    @abstractmethod
    def point(self, place: int) -> Fraction:
        """The magnitude at a place."""

    @abstractmethod
    def place(self, magnitude: Fraction) -> int:
        """The last place whose point is not above `magnitude`."""

    @abstractmethod
    def odd(self, place: int) -> bool:
        """RND-5: the parity of the integer n whose multiple of the quantum stands at a place."""

    def candidates(self, x: Fraction) -> Candidates:
        """RND-2."""
        place = self.place(abs(x))
        toward, away = self.point(place), self.point(place + 1)
        if toward == abs(x):
            return Candidates(x, x, False)
        return (
            Candidates(-toward, -away, self.odd(place))
            if x < 0
            else Candidates(toward, away, self.odd(place))
        )
