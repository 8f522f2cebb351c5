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
from typing import Any, ClassVar, Literal, Protocol, TypeVar, get_args
from weakref import WeakSet

from .._util.checks import check_choice
from .axis_words import Axis, Layout, checked_layout
from .builtin_names import NAME_OF
from .strings import string_with_parameters

Overflow = Literal["saturate", "propagate", "infinity", "nan"]
OVERFLOWS: tuple[str, ...] = get_args(Overflow)

FAMILIES: dict[str, Callable[..., Format]] = {}
"""Family name → constructor: the head of a format string and the `family` key of a TOML table."""

_REDEFINED: WeakSet[type] = WeakSet()
"""Classes whose family another class of that name has taken over, as a notebook cell run again."""


class Cache(Protocol):
    """A function that remembers its results, as `functools.lru_cache` makes it."""

    def cache_clear(self) -> None: ...


_caches: list[Cache] = []
Cached = TypeVar("Cached", bound=Cache)


def forget_on_redefinition(cache: Cached) -> Cached:
    """Clear a cache whenever strings of formats may change their meaning.

    Every cache whose key is the string of a format needs this decorator, above `lru_cache`. A cache
    whose key is a `Format` does not need it: formats of two classes are never equal.
    """
    _caches.append(cache)
    return cache


def forget_strings() -> None:
    """Clear these caches: a name or a family has come, gone or changed."""
    for cache in _caches:
        cache.cache_clear()


def define_family(family: str, constructor: Callable[..., Format]) -> None:
    """Let a constructor read the strings of a family, in the place of any earlier one.

    Raises ValueError if `family` is not an identifier, or is built in elsewhere.
    """
    if not family.isidentifier():
        raise ValueError(f"family must be an identifier, got {family!r}")
    earlier = FAMILIES.get(family)
    if earlier is not None:
        module = earlier.__module__
        if module.startswith(f"{__package__}.") and constructor.__module__ != module:
            raise ValueError(f"the family {family!r} is built in; choose another name")
        if isinstance(earlier, type) and earlier is not constructor:
            _REDEFINED.add(earlier)
    FAMILIES[family] = constructor
    forget_strings()


HASH = "_hash_once"


def _hash_once(self: Format) -> int:
    """The hash of the class and the fields, which a frozen dataclass keeps once it is known."""
    kept: dict[str, int] = getattr(self, "__dict__", {})
    value = kept.get(HASH)
    if value is None:
        fields = getattr(type(self), "__dataclass_fields__", None)
        if fields is None:
            return object.__hash__(self)
        compared = (getattr(self, name) for name, field in fields.items() if field.compare)
        value = kept[HASH] = hash((type(self), *compared))
    return value


class Format(ABC):
    """A set of numbers and how they are coded. Frozen, hashable, equal by class and parameters.

    A subclass is a frozen dataclass declared with `family="name"`; the name heads its string, so
    that `qemu_swalp.parse(str(f)) == f`. A class that is declared again, as in a notebook cell that
    is run again, takes the place of the earlier one in strings and registered names.
    """

    family: ClassVar[str] = ""
    variadic: ClassVar[str] = ""
    """Name of the tuple field that holds all positional arguments of the string, if any."""

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
        if "__hash__" not in cls.__dict__:  # else the dataclass would hash all fields at each call
            cls.__hash__ = _hash_once  # type: ignore[assignment]
        family = family or cls.__dict__.get("family", "")  # a dataclass with slots is made anew
        if family:
            cls.family = family
            define_family(family, cls)

    @property
    @abstractmethod
    def bits(self) -> int:
        """Bits of one element's code."""

    @property
    @abstractmethod
    def idempotent(self) -> bool:
        """Whether quantizing twice always equals quantizing once (clauses RND-11, BLK-6)."""

    def __getstate__(self) -> object:
        """Without its hash, in which strings count, whose hashes differ between processes."""
        state = super().__getstate__()
        if isinstance(state, dict):
            state = {name: value for name, value in state.items() if name != HASH}
        return state

    def derived_defaults(self) -> dict[str, object]:
        """Fields given as None that stand for a value derived from the others, and that value."""
        return {}

    def __str__(self) -> str:
        canonical_string = self.canonical_string()
        return NAME_OF.get(canonical_string) or self.short_name or canonical_string

    @property
    def short_name(self) -> str | None:
        """A name that `parse` reads by its pattern (clause STR-1); None without one."""
        return None

    def canonical_string(self) -> str:
        """`family<arguments>` (clause STR-1), whether or not the format has a name."""
        return string_with_parameters(self.family, self, self.derived_defaults(), self.variadic)

    @property
    def is_current(self) -> bool:
        """Whether neither its class nor that of a format within it has been redefined."""
        fields = (getattr(self, name) for name in getattr(self, "__dataclass_fields__", ()))
        within = (value for value in fields if isinstance(value, Format))
        return type(self) not in _REDEFINED and all(format.is_current for format in within)

    @property
    def axis_words(self) -> tuple[str, ...]:
        """The words among the axes of its blocks, which `resolve` replaces by numbers."""
        return ()

    def resolve(self, layout: Layout | None = None, /, **axes: Axis) -> Any:
        """The format with numbers for the words among its axes (clause BLK-14).

        Parameters
        ----------
        layout : {word: axis} of an array. An axis is an integer. It is several, where the word
            counts the indices of all of them together, as the output channels of a depthwise
            kernel. It is none, (), where the array has one index of it alone. Or it is {axis:
            length} with all axes of the array, where an index of the word is a run of so many
            indices along each.
        axes : the same by keyword; `in_` is "in".

        Returns
        -------
        A format of the same kind; this one, if it has no words.

        Raises
        ------
        ValueError: if a word of the format is not in the layout; if a size goes with a word that
            does not stand for a single axis.
        TypeError, ValueError: if the layout is not of this form.

        >>> from qemu_swalp import bfp
        >>> str(bfp(8, axis="out").resolve(out=-1)), str(bfp(8, axis="out").resolve(out=(-2, -1)))
        ('bfp<8,axis=-1>', 'bfp<8,axis=(-2,-1)>')
        >>> str(bfp(8, axis=("out", "in"), size=16).resolve(out=0, in_=1))
        'bfp<8,axis=(0,1),size=16>'
        """
        checked_layout(layout, axes)
        return self

    def replace(self, **changes: Any) -> Any:
        """A copy with some parameters changed, validated anew.

        >>> from qemu_swalp import parse
        >>> str(parse("e4m3fn").replace(overflow="nan"))
        'float<4,3,specials=fn,overflow=nan>'
        """
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]


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
        """All finite values, exactly, in ascending order.

        Raises ValueError if there are more than 2^16 of them.
        """

    @property
    @abstractmethod
    def precision(self) -> int:
        """Bits of the widest significand: what a dtype needs for every value to be exact in it."""

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
