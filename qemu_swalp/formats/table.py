"""Formats given by a table of what each code stands for (clause FMT-10)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from itertools import pairwise

from .base import ElementFormat
from .binade import binade


class TableFormat(ElementFormat):
    """A table of what each code stands for: a number, an infinity or NaN (clause FMT-10).

    A custom format needs `table`. It then serves every array library, every rounding mode and
    every tool:

    >>> import dataclasses, math, qemu_swalp as q
    >>> @dataclasses.dataclass(frozen=True)
    ... class Square(q.TableFormat, family="square"):
    ...     "±k²·2^-s in two's complement order; the code that is left is NaN."
    ...     word: int
    ...     shift: int = 0
    ...     @property
    ...     def table(self):
    ...         half = 2 ** (self.word - 1)
    ...         positive = [k * k * 2.0**-self.shift for k in range(half)]
    ...         return [*positive, math.nan, *(-v for v in reversed(positive[1:]))]
    >>> q.quantize([2.2, -7.0, 30.0, float("nan")], "square<4,shift=1>").tolist()
    [2.0, -8.0, 24.5, nan]
    >>> q.encode([2.0, -8.0, 24.5], "square<4,shift=1>").tolist()
    [2, 12, 7]

    Two more attributes may be overridden: `boundaries`, where the nearest modes step from one value
    to the next (clause RND-12), and `first_place`, from which ties count even and odd.
    """

    @property
    @abstractmethod
    def table(self) -> Sequence[float]:
        """What each code stands for, in the order of the codes: at least two numbers, ±infinity,
        NaN.

        Where several codes stand for the same, `encode` gives the first. A negative zero beside a
        zero makes the format keep the sign of zero.
        """

    @cached_property
    def meanings(self) -> tuple[float, ...]:
        """`table`, computed once."""
        return tuple(self.table)

    @property
    def boundaries(self) -> Sequence[Fraction] | None:
        """For each pair of adjacent values, ascending, where the nearest modes step between them;
        None: half way.

        A boundary that no float64 equals may be given as any number between the same two float64.
        """
        return None

    @property
    def first_place(self) -> int:
        """Rank of the least value; the others follow, and ties go to an even rank."""
        return 0

    def __post_init__(self) -> None:
        self.check_table()

    def check_table(self) -> None:
        """Raise ValueError unless clauses FMT-10 and RND-12 hold."""
        who = f"{type(self).__name__}: "
        if not 2 <= len(self.meanings) <= 2**16:
            raise ValueError(
                f"{who}table must have from 2 to 65536 entries, got {len(self.meanings)}"
            )
        if len(self.finite) < 2:
            raise ValueError(
                f"{who}table must have at least two different finite numbers, got {self.values()}"
            )
        if (-math.inf in self.meanings) != (self.has_infinity and self.min < 0):
            raise ValueError(
                f"{who}table must have infinity, and -infinity as well where it has negative"
                " numbers, or neither"
            )
        self.check_overflow(self.overflow)
        boundaries = self.boundaries
        if boundaries is None:
            return
        if len(boundaries) != len(self.finite) - 1:
            raise ValueError(
                f"{who}boundaries must be one fewer than the {len(self.finite)} values, got"
                f" {len(boundaries)}"
            )
        for (low, high), boundary in zip(pairwise(self.values()), boundaries, strict=True):
            if not low <= boundary <= high:
                raise ValueError(
                    f"{who}the boundary between {low!r} and {high!r} must lie between them, "
                    f"got {float(boundary)!r}"
                )

    @cached_property
    def finite(self) -> dict[float, int]:
        """Each finite value, ascending, with its code."""
        codes: dict[float, int] = {}
        for code, value in enumerate(self.meanings):
            if math.isfinite(value) and (
                value not in codes or _is_negative_zero(self.meanings[codes[value]])
            ):
                codes[value + 0.0] = code
        return dict(sorted(codes.items()))

    def code_of(self, special: float) -> int | None:
        """The first code of NaN, of an infinity or of -0; None without one."""
        return next(
            (code for code, value in enumerate(self.meanings) if _same(value, special)), None
        )

    @cached_property
    def has_nan(self) -> bool:
        return any(math.isnan(v) for v in self.meanings)

    @cached_property
    def has_infinity(self) -> bool:
        return math.inf in self.table

    @cached_property
    def has_negative_zero(self) -> bool:
        return {_is_negative_zero(v) for v in self.meanings if v == 0} == {False, True}

    def is_odd_end(self, above: bool) -> bool:
        """By the place of the value, not by its code (clause RND-3)."""
        return (self.first_place + (self.value_count - 1 if above else 0)) % 2 == 1

    def values(self) -> list[float]:
        return list(self.finite)

    @property
    def max(self) -> float:
        return max(self.finite)

    @property
    def min(self) -> float:
        return min(self.finite)

    @property
    def min_positive(self) -> float | None:
        """Least positive value; None without one."""
        return min((v for v in self.finite if v > 0), default=None)

    @property
    def value_count(self) -> int:
        return len(self.finite)

    @property
    def bits(self) -> int:
        return (len(self.meanings) - 1).bit_length()

    @property
    def epsilon(self) -> float | None:
        """Distance from the greatest value not above 1 to the next one; None where 1 is not inside
        the range.
        """
        return next((b - a for a, b in pairwise(self.finite) if a <= 1 < b), None)

    @cached_property
    def precision(self) -> int:
        return max((_significant_bits(v) for v in self.finite if v), default=1)

    @cached_property
    def least_exponent(self) -> int:
        return min(binade(v) - _significant_bits(v) + 1 for v in self.finite if v)


class RealTable(TableFormat):
    """A table of numbers and NaN, without infinities: known before the table is made, which takes
    long at 16 bits.
    """

    @property
    def has_nan(self) -> bool:
        return True

    @property
    def has_infinity(self) -> bool:
        return False


def _is_negative_zero(value: float) -> bool:
    return value == 0 and math.copysign(1.0, value) < 0


def _same(a: float, b: float) -> bool:
    return (math.isnan(a) and math.isnan(b)) or (
        a == b and _is_negative_zero(a) == _is_negative_zero(b)
    )


def _significant_bits(x: float) -> int:
    """Bits from the first to the last set bit of |x|, x ≠ 0."""
    numerator = abs(x.as_integer_ratio()[0])
    return (numerator // (numerator & -numerator)).bit_length()
