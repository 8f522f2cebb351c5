"""Checks of arguments: the error gives the argument, the value and what is accepted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from numbers import Integral
from typing import Any


def check_int(name: str, value: object, low: int, high: int) -> None:
    """Raise unless `value` is an int (not a bool) with low ≤ value ≤ high."""
    if isinstance(value, bool) or not isinstance(value, int):
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        remedy = f"; give int({value})" if whole else ""
        raise TypeError(f"{name} must be an integer from {low} to {high}, got {value!r}{remedy}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low} to {high}, got {value}")


def check_bool(name: str, value: object) -> None:
    """Raise unless `value` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def checked_options(name: str, value: object) -> dict[str, Any] | None:
    """The options of a part that may be left out: {} for True, None for False and None."""
    if value is None or isinstance(value, bool):
        return {} if value else None
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be True, False or a mapping of options, got {value!r}")
    return dict(value)


def check_choice(name: str, value: object, choices: tuple[str, ...], remedy: str = "") -> None:
    """Raise unless `value` is one of `choices`; suggest the nearest, or the remedy."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(
            f"{name} must be one of {', '.join(choices)}, got"
            f" {value!r}{suggestion(str(value), choices)}{remedy}"
        )


def suggestion(text: str, choices: Iterable[str], cutoff: float = 0.6) -> str:
    """ "; did you mean …?" with the choice nearest to the text; "" where none is near
    (`difflib.get_close_matches`).
    """
    from difflib import get_close_matches  # late: no call that succeeds needs it

    near = get_close_matches(text, list(choices), 1, cutoff)
    return f"; did you mean {near[0]!r}?" if near else ""


def near_matches(text: str, choices: Iterable[str], count: int = 3) -> tuple[str, ...]:
    """The `count` choices that are nearest to the text, the nearest first; the first ones where
    none is near.

    >>> near_matches("haed.*", ["conv.bias", "head.bias"], 1)
    ('head.bias',)
    """
    from difflib import get_close_matches  # late: no call that succeeds needs it

    choices = list(choices)
    return tuple(get_close_matches(text, choices, count, 0.4) or choices[:count])


def check_patterns(name: str, patterns: Iterable[str], names: Iterable[str]) -> None:
    """Raise ValueError if a pattern (shell style) matches none of the names; give the nearest.

    >>> check_patterns("--only", ["*.wieght"], ["a.weight", "b.bias"])
    Traceback (most recent call last):
    ValueError: --only: '*.wieght' matches none of 2 names; the nearest are 'a.weight'
    """
    names = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(each, pattern) for each in names):
            near = ", ".join(map(repr, near_matches(pattern, names)))
            raise ValueError(
                f"{name}: {pattern!r} matches none of {len(names)} names"
                + (f"; the nearest are {near}" if near else "")
            )
