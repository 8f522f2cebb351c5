"""Fixed point, floating point, codebooks (clauses FMT-3 to FMT-8)."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property, lru_cache

from .elements import Candidates, Element, Grid
from .exact import NAN, REACH, carrier, is_negative, power
from .rounding import quantize


@dataclass(frozen=True)
class Fixed(Grid):
    """FMT-3: `fixed<W,F>`. A point is its place times 2^-F."""

    word: int
    fraction: int
    signed: bool = True
    symmetric: bool = False
    overflow: str | None = None

    @property
    def low(self) -> Fraction:
        if not self.signed:
            return Fraction(0)
        return -self.high if self.symmetric else -power(self.word - 1 - self.fraction)

    @property
    def high(self) -> Fraction:
        return (power(self.word - self.signed) - 1) * self.least

    @property
    def least(self) -> Fraction:
        return power(-self.fraction)

    @property
    def bits(self) -> int:
        return self.word

    def point(self, place: int) -> Fraction:
        return place * self.least

    def place(self, magnitude: Fraction) -> int:
        return math.floor(magnitude / self.least)

    def odd(self, place: int) -> bool:
        return place % 2 == 1

    def code(self, value: Fraction) -> int:
        """FMT-3: value * 2^F in two's complement."""
        integer = value / self.least
        if integer.denominator != 1 or not self.low <= value <= self.high:
            raise ValueError(f"{value} is not in {self}")
        return integer.numerator % (1 << self.word)

    def decode(self, code: int) -> float:
        integer = code - (1 << self.word) if self.signed and code >> (self.word - 1) else code
        value = integer * self.least
        if value < self.low:
            raise ValueError(f"code {code} stands for nothing in {self}")
        return carrier(value)


@dataclass(frozen=True)
class Float(Grid):
    """FMT-4, FMT-5, FMT-6: `float<E,M>`.

    A place is a code's exponent and mantissa fields read as one integer, the exponent field without end upward (and,
    without zero, downward); `subnormals=false` leaves out what lies between zero and the least normal.
    """

    exponent: int
    mantissa: int
    bias: int | None = None
    signed: bool = True
    subnormals: bool = True
    zero: bool = True
    specials: str = "ieee"
    overflow: str | None = None

    @property
    def offset(self) -> int:
        """FMT-4: B."""
        return (1 << self.exponent - 1) - 1 if self.bias is None else self.bias

    @property
    def steps(self) -> int:
        """The values of one binade."""
        return 1 << self.mantissa

    @property
    def sign(self) -> int:
        """The sign bit, or where it would stand."""
        return 1 << self.exponent + self.mantissa

    @property
    def bits(self) -> int:
        return self.signed + self.exponent + self.mantissa

    @property
    def has_zero(self) -> bool:
        return self.zero

    @property
    def has_negative_zero(self) -> bool:
        """FMT-6, its last sentence."""
        return self.signed and self.zero and self.specials != "fnuz"

    @property
    def has_infinity(self) -> bool:
        return self.specials == "ieee"

    @property
    def top(self) -> int:
        """FMT-6: the fields of the greatest code that is not special."""
        return self.sign - {"ieee": self.steps, "fn": 1, "fnuz": 0, "finite": 0}[self.specials] - 1

    @property
    def nan_codes(self) -> Sequence[int]:
        """FMT-6: every code of a NaN, the positive ones first."""
        if self.specials == "fnuz":
            return (self.sign,)
        if self.specials == "finite":
            return ()
        positive = range(self.top + (2 if self.has_infinity else 1), self.sign)
        return [*positive, *(code + self.sign for code in positive)] if self.signed else positive

    @property
    def canonical_nan(self) -> int:
        """COD-2."""
        quiet = self.steps // 2
        return self.top + 1 + quiet if self.has_infinity else self.nan_codes[0]

    def magnitude(self, body: int) -> Fraction:
        """FMT-4: what exponent and mantissa fields, read as one integer, stand for."""
        exponent, mantissa = divmod(body, self.steps)
        share = Fraction(mantissa, self.steps)
        if exponent == 0 and self.zero:
            return share * power(1 - self.offset)
        return (1 + share) * power(exponent - self.offset)

    def body(self, place: int) -> int:
        """FMT-5: the exponent and mantissa fields at a place of the grid."""
        return place if self.subnormals or place == 0 else place + self.steps - 1

    @cache  # noqa: B019 - formats are few and live as long as the module
    def point(self, place: int) -> Fraction:
        return self.magnitude(self.body(place))

    @lru_cache(maxsize=64)  # noqa: B019 - the same
    def place(self, magnitude: Fraction) -> int:
        first = 0 if self.zero else -REACH * self.steps
        places = range(first, (REACH + self.offset) * self.steps)
        return places[bisect.bisect_right(places, magnitude, key=self.point) - 1]

    def odd(self, place: int) -> bool:
        """RND-5: n is the mantissa, with the leading one where there is one."""
        exponent, mantissa = divmod(self.body(place), self.steps)
        leading = 0 if exponent == 0 and self.zero else self.steps
        return (leading + mantissa) % 2 == 1

    @property
    def high(self) -> Fraction:
        return self.magnitude(self.top)

    @property
    def low(self) -> Fraction:
        """FMT-6."""
        if self.signed:
            return -self.high
        return Fraction(0) if self.zero else self.least

    @property
    def least(self) -> Fraction:
        return self.point(1 if self.zero else 0)

    def code(self, value: Fraction) -> int:
        place = self.place(abs(value)) if value or self.zero else -1
        if self.low <= value <= self.high and place >= 0 and self.point(place) == abs(value):
            return self.body(place) + (self.sign if value < 0 else 0)
        raise ValueError(f"{value} is not in {self}")

    def encode(self, number: float) -> int:
        """COD-1, with the infinities and -0 that only floats have."""
        if math.isinf(number) and self.has_infinity and (number > 0 or self.signed):
            return self.top + 1 + (self.sign if number < 0 else 0)
        if number == 0 and is_negative(number) and self.has_negative_zero:
            return self.sign
        return super().encode(number)

    def decode(self, code: int) -> float:
        """FMT-4, FMT-5, FMT-6."""
        negative, body = divmod(code, self.sign)
        if self.specials == "fnuz" and code == self.sign:
            return NAN
        if body > self.top:
            size = math.inf if self.has_infinity and body == self.top + 1 else NAN
        elif not self.subnormals and self.zero and 0 < body < self.steps:
            raise ValueError(f"code {code} stands for nothing in {self}")
        else:
            size = carrier(self.magnitude(body))
        return -size if negative else size


BINARY32 = Float(8, 23)


@dataclass(frozen=True)
class Codebook(Element):
    """FMT-7: `codebook<v0,v1,...>`."""

    values_: tuple[float, ...]
    dtype: str = "float32"

    @cached_property
    def listed(self) -> tuple[Fraction, ...]:
        """FMT-7: the values as held."""
        return tuple(Fraction(v if self.dtype == "float64" else quantize(v, BINARY32)) for v in self.values_)

    @property
    def bits(self) -> int:
        return (len(self.values_) - 1).bit_length()

    @property
    def low(self) -> Fraction:
        return min(self.listed)

    @property
    def high(self) -> Fraction:
        return max(self.listed)

    @property
    def has_zero(self) -> bool:
        return 0 in self.listed

    def candidates(self, x: Fraction) -> Candidates:
        """RND-3: a zero counts as positive; what is out of range stays for the range check."""
        values = sorted(self.listed)
        place = bisect.bisect_left(values, x)
        if place == len(values) or place == 0 or values[place] == x:
            return Candidates(x, x, False)
        toward, away = (place, place - 1) if x < 0 else (place - 1, place)
        return Candidates(values[toward], values[away], toward % 2 == 1)

    def code(self, value: Fraction) -> int:
        if value not in self.listed:
            raise ValueError(f"{value} is not in {self}")
        return self.listed.index(value)

    def decode(self, code: int) -> float:
        if code >= len(self.listed):
            raise ValueError(f"code {code} stands for nothing in {self}")
        return carrier(self.listed[code])
