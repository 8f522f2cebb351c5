"""Layers of a recipe's overrides by position: "@layers[0]", "@layers[-15%:]"."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

PREFIX = "@"
_BOUND = r"(-?\d+%?)?"
_POSITION = re.compile(rf"@layers\[{_BOUND}(:?){_BOUND}\]")


def is_position(pattern: str) -> bool:
    """Whether a pattern of overrides is a position, to be replaced by names.

    ValueError if it begins like one, and is none.
    """
    if not pattern.startswith(PREFIX):
        return False
    found = _POSITION.fullmatch(pattern)
    if found is None or (not found[2] and (not found[1] or "%" in found[1] or found[3])):
        raise ValueError(
            f"cannot read the position {pattern!r} of overrides; positions look like '@layers[0]',"
            " '@layers[-1]', '@layers[:2]' or '@layers[-15%:]', as Python's indices and slices"
        )
    return True


def layers_at(position: str, layers: Sequence[str]) -> list[str]:
    """The layers at a position. ValueError if there are none, unless it is a share of them.

    >>> layers_at("@layers[-40%:]", ["a", "b", "c", "d"])
    ['c', 'd']
    """
    first, colon, last = position.removeprefix("@layers[").removesuffix("]").partition(":")
    count = len(layers)
    if colon:
        at = list(layers[_index(first, 0, count) : _index(last, count, count)])
    else:
        at = list(layers[int(first) : int(first) + 1 or None])
    if not at and "%" not in position:
        raise ValueError(
            f"the position {position!r} of overrides matches none of {len(layers)} layers that have"
            " a weight of two or more dimensions; correct or remove it"
        )
    return at


def unplaced(position: str) -> ValueError:
    """The error where a position cannot be looked up."""
    return ValueError(
        f"{position!r} of overrides is a position, which names a layer in a model only; use a call"
        " that sees the model, as with model=, or replace it by Recipe.at_layers"
    )


def _index(bound: str, default: int, count: int) -> int:
    """An index from the beginning; a share of the layers, in %, is rounded to nearest."""
    if not bound:
        return default
    number = int(bound.removesuffix("%"))
    if bound.endswith("%"):
        number = int(math.copysign((abs(number) * count + 50) // 100, number))
    from_end = bound.startswith("-")
    return max(count + number, 0) if from_end else number


def literal(name: str) -> str:
    """The pattern (shell style) that matches that name alone."""
    return name.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")
