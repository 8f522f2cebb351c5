"""Posits, takums and logarithmic formats (clauses FMT-12, FMT-13, FMT-14, RND-12)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from .exact import NAN, carrier, power
from .families import BINARY32
from .irrational import Bounds, exactly, exponential, root_of_two
from .rounding import quantize
from .tables import Table


def held(number: Bounds, dtype: str) -> float:
    """FMT-7: the nearest number of a dtype, which both bounds agree on."""
    near = {quantize(bound, BINARY32) if dtype == "float32" else float(bound) for bound in number}
    if len(near) > 1:
        raise ValueError("the bounds are too far apart")
    return near.pop()


class Real(Table):
    """FMT-12, FMT-13: bit strings in two's complement. `magnitude` reads the bits after the
    sign.
    """

    word: int
    linear: bool = True

    @abstractmethod
    def magnitude(self, bits: str) -> Bounds:
        """What a positive code stands for, by the bits after its sign bit."""

    @property
    def first_place(self) -> int:  # type: ignore[override]
        return 1 - (1 << self.word - 1)

    @cached_property
    def meanings(self) -> Sequence[float]:  # type: ignore[override]
        half = 1 << self.word - 1
        strings = [format(code, f"0{self.word - 1}b") for code in range(1, half)]
        positive = [
            carrier(b.low) if b.low == b.high else held(b, "float64")
            for b in map(self.magnitude, strings)
        ]
        return [0.0, *positive, NAN, *(-v for v in reversed(positive))]

    def boundary(self, place: int) -> Bounds:
        """RND-12: the code with a 1 appended; zero beside zero."""
        if place in (0, -1):
            return exactly(Fraction(0))
        code = place if place > 0 else -place - 1
        between = self.magnitude(format(code, f"0{self.word - 1}b") + "1")
        return between if place > 0 else Bounds(-between.high, -between.low)


@dataclass(frozen=True)
class Posit(Real):
    """FMT-12: `posit<n,es>`."""

    word: int
    es: int = 2
    overflow: str | None = "propagate"

    def magnitude(self, bits: str) -> Bounds:
        """FMT-12: a run of equal bits, the bit that ends it, exponent, fraction; missing bits are
        0.
        """
        run = len(bits) - len(bits.lstrip(bits[0]))
        regime = run - 1 if bits[0] == "1" else -run
        rest = bits[run + 1 :]
        exponent, fraction = int((rest + "0" * self.es)[: self.es] or "0", 2), rest[self.es :]
        share = Fraction(int(fraction or "0", 2), 1 << len(fraction))
        return exactly((1 + share) * power(regime * 2**self.es + exponent))


@dataclass(frozen=True)
class Takum(Real):
    """FMT-13: `takum<n>`."""

    word: int
    linear: bool = False
    overflow: str | None = "propagate"

    def magnitude(self, bits: str) -> Bounds:
        """FMT-13: direction, three bits of regime, characteristic, mantissa."""
        bits = bits.ljust(11, "0")
        regime, rest = int(bits[1:4], 2), bits[4:]
        if bits[0] == "1":
            count = regime
            characteristic = 2**count - 1 + int(rest[:count] or "0", 2)
        else:
            count = 7 - regime
            characteristic = -(2 ** (count + 1)) + 1 + int(rest[:count] or "0", 2)
        mantissa = Fraction(int(rest[count:] or "0", 2), 1 << len(rest[count:]))
        if self.linear:
            return exactly((1 + mantissa) * power(characteristic))
        return exponential((characteristic + mantissa) / 2)


@dataclass(frozen=True)
class Logarithmic(Table):
    """FMT-14: `logarithmic<W,F>`."""

    word: int
    fraction: int
    bias: int | None = None
    midpoint: str = "geometric"
    dtype: str = "float32"
    overflow: str | None = None

    @property
    def greatest(self) -> int:
        """The greatest m."""
        return (1 << self.word - 1) - 1

    @property
    def first_place(self) -> int:  # type: ignore[override]
        return -self.greatest

    def number(self, m: Fraction) -> Bounds:
        """FMT-14: 2^((m - B)/2^F)."""
        bias = 1 << self.word - 2 if self.bias is None else self.bias
        return root_of_two((m - bias) / power(self.fraction))

    @cached_property
    def meanings(self) -> Sequence[float]:  # type: ignore[override]
        positive = [held(self.number(Fraction(m)), self.dtype) for m in range(1, self.greatest + 1)]
        return [0.0, *positive, NAN, *(-v for v in positive)]

    def boundary(self, place: int) -> Bounds | None:
        """RND-12: half way between logarithms."""
        if self.midpoint == "arithmetic":
            return None
        between = self.number((place if place >= 0 else -place - 1) + Fraction(1, 2))
        return between if place >= 0 else Bounds(-between.high, -between.low)
