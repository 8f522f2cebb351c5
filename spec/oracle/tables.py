"""Formats that list what each code stands for (clauses FMT-7, FMT-10, RND-3, RND-12)."""

from __future__ import annotations

import bisect
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from .elements import Candidates, Element
from .exact import carrier, is_negative
from .families import BINARY32
from .irrational import Bounds
from .rounding import quantize


class Table(Element):
    """FMT-10. `meanings` is what each code stands for."""

    first_place = 0

    @property
    @abstractmethod
    def meanings(self) -> Sequence[float]:
        """FMT-10."""

    def boundary(self, place: int) -> Bounds | None:
        """RND-12: where the nearest modes step from the value at a place to the next; None: half
        way.
        """
        return None

    @cached_property
    def ordered(self) -> tuple[Fraction, ...]:
        """The values, ascending."""
        return tuple(sorted({Fraction(v) for v in self.meanings if math.isfinite(v)}))

    @property
    def bits(self) -> int:
        return (len(self.meanings) - 1).bit_length()

    @property
    def low(self) -> Fraction:
        return self.ordered[0]

    @property
    def high(self) -> Fraction:
        return self.ordered[-1]

    def is_odd_end(self, below: bool) -> bool:
        """RND-7."""
        return (self.first_place + (0 if below else len(self.ordered) - 1)) % 2 == 1

    @property
    def signed(self) -> bool:  # type: ignore[override]
        return self.low < 0

    @property
    def least(self) -> Fraction:
        """The least positive value."""
        return next(v for v in self.ordered if v > 0)

    @property
    def has_zero(self) -> bool:
        return 0 in self.ordered

    @property
    def has_negative_zero(self) -> bool:
        return len({is_negative(v) for v in self.meanings if v == 0}) == 2

    @property
    def has_infinity(self) -> bool:
        return math.inf in self.meanings

    @cached_property
    def nan_codes(self) -> Sequence[int]:  # type: ignore[override]
        return [code for code, v in enumerate(self.meanings) if math.isnan(v)]

    def candidates(self, x: Fraction) -> Candidates:
        """RND-3: a zero counts as positive; what is out of range stays for the range check."""
        place = bisect.bisect_left(self.ordered, x)
        if place in (0, len(self.ordered)) or self.ordered[place] == x:
            return Candidates(x, x, False)
        toward, away = (place, place - 1) if x < 0 else (place - 1, place)
        odd = (self.first_place + toward) % 2 == 1
        return Candidates(self.ordered[toward], self.ordered[away], odd)

    def side(self, x: Fraction, toward: Fraction, away: Fraction) -> int:
        """RND-12."""
        boundary = self.boundary(
            self.first_place + bisect.bisect_left(self.ordered, min(toward, away))
        )
        if boundary is None:
            return super().side(x, toward, away)
        return boundary.sign(x) * (1 if away > toward else -1)

    @cached_property
    def first_codes(self) -> dict[Fraction, int]:
        """COD-1, COD-2: the first code of each value, of 0 that of +0 where there are both."""
        finite = [(code, v) for code, v in enumerate(self.meanings) if math.isfinite(v)]
        signs = [
            (code, v)
            for code, v in finite
            if not (v == 0 and is_negative(v) and self.has_negative_zero)
        ]
        return {Fraction(v): code for code, v in reversed(signs)}

    def code(self, value: Fraction) -> int:
        if value not in self.first_codes:
            raise ValueError(f"{value} is not in {self}")
        return self.first_codes[value]

    def encode(self, number: float) -> int:
        """COD-1, COD-2: the first code of several."""
        special = math.isinf(number) or (
            number == 0 and is_negative(number) and self.has_negative_zero
        )
        if special:
            same = [
                c
                for c, v in enumerate(self.meanings)
                if v == number and is_negative(v) == is_negative(number)
            ]
            if not same:
                raise ValueError(f"{number} is not in {self}")
            return same[0]
        return super().encode(number)

    def values(self) -> list[Fraction]:
        return list(self.ordered)

    def decode(self, code: int) -> float:
        if code >= len(self.meanings):
            raise ValueError(f"code {code} stands for nothing in {self}")
        return self.meanings[code]


@dataclass(frozen=True)
class Codebook(Table):
    """FMT-7: `codebook<v0,v1,...>`."""

    values_: tuple[float, ...]
    dtype: str = "float32"

    @cached_property
    def meanings(self) -> Sequence[float]:  # type: ignore[override]
        """FMT-7: the values as held."""
        held = (
            Fraction(v if self.dtype == "float64" else quantize(v, BINARY32)) for v in self.values_
        )
        return tuple(map(carrier, held))
