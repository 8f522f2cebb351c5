"""What a number format is: the classes that every format, built in or the user's own, derives from.

A format is a frozen dataclass. Its fields are its parameters; its string (clause STR-1) and its TOML form follow from
them, so a subclass writes neither. Everything else (maximum, epsilon, number of values) is derived, never stored.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from fractions import Fraction
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

from ..backends import Array, Namespace, numpy_namespace

Overflow = Literal["saturate", "infinity", "nan"]
OVERFLOWS: tuple[str, ...] = get_args(Overflow)

FAMILIES: dict[str, Callable[..., Format]] = {}
"""Family name → constructor: the head of a format string and the `family` key of a TOML table."""


def binade(x: float) -> int:
    """⌊log2 |x|⌋ of a finite non-zero float, exactly, subnormals included."""
    return math.frexp(x)[1] - 1


def check_int(name: str, value: object, low: int, high: int) -> None:
    """Raise unless `value` is an int (not a bool) with low ≤ value ≤ high."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer from {low} to {high}, got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low} to {high}, got {value}")


def check_bool(name: str, value: object) -> None:
    """Raise unless `value` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise unless `value` is one of `choices`; suggest the nearest."""
    if not isinstance(value, str) or value not in choices:
        near = difflib.get_close_matches(str(value), choices, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}{hint}")


class Format(ABC):
    """A set of numbers and how they are coded. Frozen, hashable, equal by parameters.

    A subclass is a frozen dataclass declared with `family="name"`; the name heads its string, so that
    `qemu_swalp.parse(str(f)) == f`.
    """

    family: ClassVar[str] = ""
    variadic: ClassVar[str] = ""
    """Name of the tuple field that takes all positional arguments of the string, if any."""

    def __init_subclass__(cls, family: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in inspect.get_annotations(cls):
            if name not in cls.__dict__ and isinstance(getattr(cls, name, None), property | cached_property):
                raise TypeError(f"{cls.__name__}.{name} would hide the property {name!r} of every format; "
                                "give the field another name, or a default value")
        if family:
            if not family.isidentifier():
                raise ValueError(f"family must be an identifier, got {family!r}")
            cls.family = family
            FAMILIES[family] = cls

    @property
    @abstractmethod
    def bits(self) -> int:
        """Bits of one element's code."""

    @property
    @abstractmethod
    def idempotent(self) -> bool:
        """Whether quantizing twice always equals quantizing once (clauses RND-11, BLK-6)."""

    def derived_defaults(self) -> dict[str, object]:
        """Fields given as None that stand for a value derived from the others, and that value."""
        return {}

    def __str__(self) -> str:
        from .registry import builtin_name

        return builtin_name(self) or self.spelling()

    def spelling(self) -> str:
        """`family<arguments>` (clause STR-1), whether or not the format has a name."""
        return spell(self.family, self, self.derived_defaults(), self.variadic)

    def replace(self, **changes: Any) -> Any:
        """A copy with some parameters changed, validated anew.

        >>> from qemu_swalp import parse
        >>> str(parse("e4m3fn").replace(overflow="nan"))
        'float<4,3,specials=fn,overflow=nan>'
        """
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]


def spell(family: str, fields_of: object, derived: dict[str, object], variadic: str = "") -> str:
    """The string of a dataclass: required fields by position, the others by name where not at their default."""
    parts: list[str] = []
    for field in dataclasses.fields(fields_of):  # type: ignore[arg-type]
        value = getattr(fields_of, field.name)
        if field.name == variadic:
            parts += [_literal(v) for v in value]
        elif field.default is dataclasses.MISSING:
            parts.append(_literal(value))
        elif value == derived.get(field.name, field.default):
            continue
        else:
            parts.append(field.name if value is True else f"{field.name}={_literal(value)}")
    return f"{family}<{','.join(parts)}>"


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, tuple):
        return _literal(value[0]) if len(value) == 1 else "(" + ",".join(map(_literal, value)) + ")"
    return str(value)


class ElementFormat(Format):
    """A format whose elements are rounded one by one."""

    @property
    def overflow(self) -> Overflow:
        """What happens beyond the range (clause FMT-8)."""
        return "saturate"

    @property
    def has_infinity(self) -> bool:
        return False

    @property
    def has_nan(self) -> bool:
        return False

    @property
    def has_negative_zero(self) -> bool:
        return False

    @property
    def idempotent(self) -> bool:
        return True

    @property
    @abstractmethod
    def max(self) -> float:
        """Greatest finite value."""

    @property
    @abstractmethod
    def min(self) -> float:
        """Least (most negative) finite value."""

    @property
    @abstractmethod
    def value_count(self) -> int:
        """Number of distinct finite values; zero counts once."""

    @abstractmethod
    def values(self) -> list[float]:
        """All finite values in ascending order (exact). ValueError beyond 2^16 of them."""

    @property
    @abstractmethod
    def precision(self) -> int:
        """Bits of the widest significand: what a dtype must hold for every value to be exact in it."""

    @property
    @abstractmethod
    def least_exponent(self) -> int:
        """Every value is a multiple of two to this power."""

    def check_overflow(self, overflow: str) -> None:
        """Raise ValueError unless the format can express the overflow policy."""
        check_choice("overflow", overflow, OVERFLOWS)
        for policy, has, what in (("infinity", self.has_infinity, "infinities"), ("nan", self.has_nan, "NaN")):
            if overflow == policy and not has:
                raise ValueError(f"overflow={policy!r} needs a format with {what}, and this {self.family} format has "
                                 "none; use 'saturate'")


class BinadeFormat(ElementFormat):
    """Values that are evenly spaced within each binade (clause FMT-2).

    A format of one's own needs `max` and `quantum`. `quantum` is written once, with array operators and the
    functions of the namespace `xp` (`maximum`, `minimum`, `where`, `abs`), and then serves every array library, every
    rounding mode and every tool:

    >>> import dataclasses, qemu_swalp as q
    >>> @dataclasses.dataclass(frozen=True)
    ... class Tapered(q.BinadeFormat, family="tapered"):
    ...     "Most precise near 1; one bit less for every two binades away from it."
    ...     fraction: int
    ...     @property
    ...     def max(self):
    ...         return 2.0 ** (2 * self.fraction)
    ...     def quantum(self, binade, xp):
    ...         kept = xp.maximum(self.fraction - xp.abs(binade) // 2, 0)
    ...         return xp.maximum(binade - kept, -2 * self.fraction)
    >>> q.quantize([1.05, 100.0, 0.001], "tapered<4>").tolist()
    [1.0625, 96.0, 0.0]
    """

    @property
    def signed(self) -> bool:
        return True

    @property
    def has_zero(self) -> bool:
        return True

    @abstractmethod
    def quantum(self, binade: Array, xp: Namespace) -> Array:
        """Exponent of the spacing of the values in a binade.

        `binade`: integer array. Returns an integer array (or an int, where it is the same everywhere).
        """

    @property
    def min(self) -> float:
        return -self.max if self.signed else (0.0 if self.has_zero else self.min_positive)

    def __post_init__(self) -> None:
        self.check_grid()

    def check_grid(self) -> None:
        """Raise ValueError unless clause FMT-2 holds."""
        who = f"{type(self).__name__}: "
        if not 0 < self.max < float("inf"):
            raise ValueError(f"{who}max must be a positive finite float, got {self.max!r}")
        self.check_overflow(self.overflow)
        _ = self._grid
        for end in (self.max, -self.min):
            if end > 0 and not _is_multiple(end, self.quantum_at(binade(end))):
                raise ValueError(f"{who}{end!r} ends the range and is not a multiple of "
                                 f"2^{self.quantum_at(binade(end))}, the spacing in its binade")

    def quantum_at(self, e: int) -> int:
        """`quantum` of one binade, as an int."""
        xp = numpy_namespace()
        return int(xp.broadcast(self.quantum(xp.integers([e], 32), xp), (1,))[0])

    @cached_property
    def _grid(self) -> list[tuple[int, int]]:
        """(binade, quantum) of every binade that holds positive values, ascending; checked against FMT-2."""
        who = f"{type(self).__name__}: "
        top = binade(max(self.max, -self.min))
        span = 2200  # float64 spans 2^-1074 .. 2^1023
        xp = numpy_namespace()
        binades = xp.integers(list(range(top - span, top + 1)), 32)
        quanta = [int(v) for v in xp.broadcast(self.quantum(binades, xp), (span + 1,))]
        rows = list(zip(range(top - span, top + 1), quanta, strict=True))
        if not self.has_zero:
            return [row for row in rows if row[0] >= binade(self.min_positive)]
        full = next((i for i in range(span, -1, -1) if rows[i][1] > rows[i][0]), None)
        if full is None:
            raise ValueError(f"{who}quantum(e) never exceeds e, so the values near zero never end; bound it below, "
                             "as in xp.maximum(quantum, -20)")
        if full == span:
            raise ValueError(f"{who}quantum({top}) = {rows[span][1]} exceeds {top}, the binade of max")
        least = rows[full + 1][0]
        wrong = next((row for row in rows[: full + 1] if row[1] != least), None)
        if wrong is not None:
            raise ValueError(f"{who}below its least positive value 2^{least} a format must have quantum(e) = {least}, "
                             f"got quantum({wrong[0]}) = {wrong[1]}")
        return rows[full + 1 :]

    @cached_property
    def min_positive(self) -> float:
        """Least positive value."""
        return float(2.0 ** self._grid[0][0])

    @property
    def epsilon(self) -> float:
        """Distance from 1 to the next value above it."""
        return float(2.0 ** self.quantum_at(0))

    @cached_property
    def positive_count(self) -> int:
        """Number of positive values."""
        return self.place(self.max)

    @cached_property
    def value_count(self) -> int:
        negative = self.place(-self.min) if self.min < 0 else 0
        return self.positive_count + negative + bool(self.has_zero)

    @cached_property
    def first_places(self) -> list[int]:
        """Place (from 1) among the positive values of the first value of each binade of the grid."""
        places = [1]
        for e, q in self._grid:
            places.append(places[-1] + (1 << (e - q)))
        return places

    def place(self, x: float) -> int:
        """Place (from 1) of a positive value among the positive values, ascending."""
        e = binade(x)
        least = self._grid[0][0]
        q = self._grid[e - least][1]
        n = int(Fraction(x) / Fraction(2) ** q)
        return self.first_places[e - least] + n - (1 << (e - q))

    def values(self) -> list[float]:
        if self.value_count > 2**16:
            raise ValueError(f"{self} has {self.value_count} values; values() lists at most 65536")
        positive = [n * 2.0**q for e, q in self._grid for n in range(2 ** (e - q), 2 ** (e - q + 1))]
        negative = [-v for v in reversed(positive) if -v >= self.min] if self.signed else []
        return negative + ([0.0] if self.has_zero else []) + [v for v in positive if v <= self.max]

    @cached_property
    def precision(self) -> int:
        return max(e - q + 1 if 2.0**e < self.max else 1 for e, q in self._grid)

    @property
    def least_exponent(self) -> int:
        return min(q for _, q in self._grid)

    # Codes: sign-magnitude by place (clause COD-3); families with codes of their own override these four.

    @property
    def bits(self) -> int:
        return (self.positive_count).bit_length() + self.signed

    def encode_parts(self, negative: Array, n: Array, binade: Array, xp: Namespace) -> Array:
        """Code of ±n·2^quantum(binade). Integer arrays in, integer array out."""
        least = self._grid[0][0]
        index = xp.minimum(xp.maximum(binade - least, 0), len(self._grid) - 1)
        starts = [f - 2 ** (e - q) for f, (e, q) in zip(self.first_places, self._grid, strict=False)]
        magnitude = xp.where(n == 0, 0, xp.take(starts, index) + n)
        return xp.where(negative, magnitude + (1 << (self.bits - 1)), magnitude) if self.signed else magnitude

    def decode_parts(self, code: Array, xp: Namespace) -> tuple[Array, Array, Array]:
        """(negative, n, q) of a code: it stands for ±n·2^q."""
        magnitude_bits = self.bits - self.signed
        magnitude = code & ((1 << magnitude_bits) - 1)
        index = xp.maximum(xp.searchsorted(self.first_places[:-1], magnitude) - 1, 0)
        starts = [f - 2 ** (e - q) for f, (e, q) in zip(self.first_places, self._grid, strict=False)]
        n = xp.where(magnitude == 0, 0, magnitude - xp.take(starts, index))
        negative = (xp.shift_right(code, magnitude_bits) & 1) == 1
        return negative, n, xp.take([q for _, q in self._grid], index)

    @property
    def infinity_code(self) -> int | None:
        """Code of +infinity; None without one."""
        return None

    @property
    def nan_code(self) -> int | None:
        """The NaN code that `encode` gives (clause COD-2); None without one."""
        return None

    def special_codes(self, code: Array, xp: Namespace) -> tuple[Array | None, Array | None]:
        """Masks of the codes that stand for infinity and for NaN (None: there are none)."""
        return None, None


def _is_multiple(x: float, q: int) -> bool:
    return (Fraction(x) / Fraction(2) ** q).denominator == 1

