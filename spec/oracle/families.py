"""Fixed point and floating point (clauses FMT-3 to FMT-6, FMT-8, FMT-11)."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property, lru_cache

from .elements import Grid
from .exact import NAN, REACH, carrier, is_negative, power


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

    A place is a code's exponent and mantissa fields read as one integer, the exponent field without
    end upward (and, without zero, downward); `subnormals=false` leaves out what lies between zero
    and the least normal.
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

    def is_odd_end(self, below: bool) -> bool:
        """RND-7; below unsigned formats there is no infinity."""
        return (self.signed or not below) and self.top % 2 == 1

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
class P3109(Grid):
    """FMT-11: `p3109<K,P>`. A place is a code without its sign."""

    k: int
    p: int
    signed: bool = True
    domain: str = "extended"
    overflow: str | None = None

    @cached_property
    def points(self) -> Float:
        """The same fields without special codes."""
        exponent = self.k - self.p + (0 if self.signed else 1)
        return Float(exponent, self.p - 1, 1 << (exponent - 1), self.signed, specials="finite")

    @property
    def bits(self) -> int:
        return self.k

    @property
    def has_infinity(self) -> bool:
        return self.domain == "extended"

    @property
    def nan_codes(self) -> Sequence[int]:
        return [1 << (self.k - 1) if self.signed else (1 << self.k) - 1]

    @property
    def infinity(self) -> int:
        """The code of +infinity, or the one above the greatest value."""
        return (
            (1 << self.k - 1) - self.has_infinity
            if self.signed
            else (1 << self.k) - 1 - self.has_infinity
        )

    @property
    def high(self) -> Fraction:
        return self.points.point(self.infinity - 1)

    @property
    def low(self) -> Fraction:
        return -self.high if self.signed else Fraction(0)

    @property
    def least(self) -> Fraction:
        return self.points.least

    def point(self, place: int) -> Fraction:
        return self.points.point(place)

    def place(self, magnitude: Fraction) -> int:
        return self.points.place(magnitude)

    def odd(self, place: int) -> bool:
        """RND-5: the parity of the code."""
        return place % 2 == 1

    def is_odd_end(self, below: bool) -> bool:
        """RND-7; zero, which ends the range of unsigned formats, has an even code."""
        return (self.signed or not below) and self.infinity % 2 == 0

    def code(self, value: Fraction) -> int:
        place = self.place(abs(value))
        if not self.low <= value <= self.high or self.point(place) != abs(value):
            raise ValueError(f"{value} is not in {self}")
        return place + (1 << self.k - 1 if value < 0 else 0)

    def encode(self, number: float) -> int:
        """COD-1, COD-2."""
        if math.isinf(number) and self.has_infinity and (number > 0 or self.signed):
            return self.infinity + (1 << self.k - 1 if number < 0 else 0)
        return super().encode(number)

    def decode(self, code: int) -> float:
        if code in self.nan_codes:
            return NAN
        negative, place = divmod(code, 1 << self.k - 1) if self.signed else (0, code)
        size = (
            math.inf if self.has_infinity and place == self.infinity else carrier(self.point(place))
        )
        return -size if negative else size
