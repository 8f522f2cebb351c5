"""What a number format is: the classes that every format, built in or the user's own, derives from.

A format is a frozen dataclass. Its fields are its parameters; its string (clause STR-1) and its
TOML form follow from them, so a subclass writes neither. Everything else (maximum, epsilon, number
of values) is derived, never stored.
"""

from __future__ import annotations

import dataclasses
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

from .._util.checks import check_choice

Overflow = Literal["saturate", "propagate", "infinity", "nan"]
OVERFLOWS: tuple[str, ...] = get_args(Overflow)

FAMILIES: dict[str, Callable[..., Format]] = {}
"""Family name → constructor: the head of a format string and the `family` key of a TOML table."""


class Format(ABC):
    """A set of numbers and how they are coded. Frozen, hashable, equal by parameters.

    A subclass is a frozen dataclass declared with `family="name"`; the name heads its string, so
    that `qemu_swalp.parse(str(f)) == f`.
    """

    family: ClassVar[str] = ""
    variadic: ClassVar[str] = ""
    """Name of the tuple field that takes all positional arguments of the string, if any."""

    def __init_subclass__(cls, family: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in inspect.get_annotations(cls):
            if name not in cls.__dict__ and isinstance(
                getattr(cls, name, None), property | cached_property
            ):
                raise TypeError(
                    f"{cls.__name__}.{name} would hide the property {name!r} of every format; "
                    "give the field another name, or a default value"
                )
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

        return builtin_name(self) or self.short_name or self.canonical_string()

    @property
    def short_name(self) -> str | None:
        """A name that `parse` reads by its pattern, where the family has such names (clause
        STR-1).
        """
        return None

    def canonical_string(self) -> str:
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
    """The string of a dataclass: required fields (and those of metadata "positional") by position,
    the others by name where they are not at their default.
    """
    parts: list[str] = []
    for field in dataclasses.fields(fields_of):  # type: ignore[arg-type]
        value = getattr(fields_of, field.name)
        if field.name == variadic:
            parts += [_literal(v) for v in value]
        elif field.default is dataclasses.MISSING or field.metadata.get("positional"):
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

    def stays_in_range(self, mode: str, overflow: str, above: bool) -> bool:
        """Whether a finite number beyond an end of the range goes to that end in this mode, under
        "infinity" or "nan" (clause RND-7).
        """
        if mode == "to_odd":
            return overflow == "infinity" and self.is_odd_end(above)
        return mode in ("toward_zero", "toward_negative" if above else "toward_positive")

    def is_odd_end(self, above: bool) -> bool:
        """Whether the code of `max` (above) or `min` is odd; asked of formats with infinities."""
        return False

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
        """Bits of the widest significand: what a dtype must hold for every value to be exact in
        it.
        """

    @property
    @abstractmethod
    def least_exponent(self) -> int:
        """Every value is a multiple of two to this power."""

    def check_overflow(self, overflow: str) -> None:
        """Raise ValueError unless the format can express the overflow policy."""
        check_choice("overflow", overflow, OVERFLOWS)
        needs = (
            ("infinity", self.has_infinity, "infinities"),
            ("nan", self.has_nan, "NaN"),
            ("propagate", self.has_infinity or self.has_nan, "infinities or NaN"),
        )
        for policy, has, what in needs:
            if overflow == policy and not has:
                raise ValueError(
                    f"overflow={policy!r} needs a format with {what}, and this {self.family} format"
                    " has none; use 'saturate'"
                )
