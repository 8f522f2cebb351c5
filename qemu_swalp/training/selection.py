"""Choosing parts of a model, modules or layers, by type, name or predicate."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any


def chosen(name: str, part: Any, selection: Any, kind: type, noun: str) -> bool:
    """Whether the part of a model that has this name is selected.

    Parameters
    ----------
    name, part : the part and its name in the model.
    selection : a type, a pattern of names (shell style), a predicate (name, part) -> bool, or a
        sequence of such.
    kind, noun : the type that all parts have, and what errors call one, as in "layer".

    Raises
    ------
    TypeError: if the selection is something else.

    >>> chosen("fc1", 1.5, ["conv*", float], object, "layer")
    True
    >>> chosen("fc1", 1.5, lambda name, part: part > 2, object, "layer")
    False
    """
    if isinstance(selection, str):
        return fnmatchcase(name, selection)
    if isinstance(selection, type) and issubclass(selection, kind):
        return isinstance(part, selection)
    if isinstance(selection, Sequence):
        return any(chosen(name, part, one, kind, noun) for one in selection)
    if callable(selection) and not isinstance(selection, type):
        return bool(selection(name, part))
    raise TypeError(
        f"{noun}s and exclude take {noun} types, patterns of {noun} names, predicates (name,"
        f" {noun}) -> bool, or sequences of these, got {selection!r}"
    )
