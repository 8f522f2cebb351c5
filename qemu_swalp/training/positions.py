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
    """The layers at a position. ValueError if there are none.

    >>> layers_at("@layers[-30%:]", ["a", "b", "c", "d"])
    ['c', 'd']
    """
    first, colon, last = position.removeprefix("@layers[").removesuffix("]").partition(":")
    start, stop = (_index(bound, len(layers)) if bound else None for bound in (first, last))
    if not colon and start is not None:
        stop = start + 1 or None
    at = list(layers[start:stop])
    if not at:
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


def _index(bound: str, count: int) -> int:
    """A number of layers; of a share of them, in %, rounded up."""
    if not bound.endswith("%"):
        return int(bound)
    share = int(bound[:-1])
    return int(math.copysign(math.ceil(abs(share) * count / 100), share))


def literal(name: str) -> str:
    """The pattern (shell style) that matches that name alone."""
    return name.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")
