"""Which elements of an array share a scale (clauses BLK-1, BLK-2 and BLK-14)."""

from __future__ import annotations

from collections.abc import Iterable

from .._util.checks import check_choice, check_int
from .axis_words import AXIS_WORDS, unresolved, words_in

Axes = tuple[int | str, ...] | None
Sizes = int | tuple[int, ...] | None


def checked_axes(axis: int | str | Iterable[int | str] | None) -> Axes:
    """The axes as a tuple.

    Raises TypeError or ValueError unless they are different integers or `AXIS_WORDS`.
    """
    if axis is None:
        return None
    axes = tuple(axis) if isinstance(axis, Iterable) and not isinstance(axis, str) else (axis,)
    for a in axes:
        if isinstance(a, str):
            check_choice("axis, a number or a word,", a, AXIS_WORDS)
        else:
            check_int("axis", a, -64, 63)
    if not axes or len(set(axes)) < len(axes):
        raise ValueError(
            f"axis must name each axis once, got {axis!r}; leave it out for a single block"
        )
    return axes


def checked_sizes(size: int | Iterable[int] | None, axes: Axes) -> Sizes:
    """The size as an integer where it is one for all axes, else as a tuple.

    Raises TypeError or ValueError unless it is one positive integer, or one for each axis.
    """
    if size is None:
        return None
    sizes = tuple(size) if isinstance(size, Iterable) else (size,)
    for length in sizes:
        check_int("size", length, 1, 2**31 - 1)
    if axes is None:
        raise ValueError(
            f"size={size} needs one axis or more to run along, as in axis=-1; got axis=None"
        )
    if len(sizes) not in (1, len(axes)):
        raise ValueError(
            f"size must be one integer, or one for each of the {len(axes)} axes {axes}, got"
            f" {size!r}"
        )
    return sizes[0] if len(set(sizes)) == 1 else sizes


def sizes_by_axis(axes: Axes, size: Sizes, ndim: int, format: object) -> dict[int, int]:
    """The named axes of an array of `ndim` dimensions, counted from 0, each with its size.

    Where no size is set, it is 1. Raises ValueError, naming the format, if the array lacks an axis,
    if two names stand for one axis, or if an axis is a word.
    """
    if words := words_in(axes):
        raise unresolved(format, words)
    numbers = [a for a in axes or () if isinstance(a, int)]
    sizes = size if isinstance(size, tuple) else (size or 1,) * len(numbers)
    by_axis: dict[int, int] = {}
    for a, length in zip(numbers, sizes, strict=True):
        if not -ndim <= a < ndim:
            raise ValueError(
                f"{format} names axis {a}, which an array of {ndim} dimensions does not have"
            )
        if a % ndim in by_axis:
            raise ValueError(
                f"{format} names axis {a % ndim} of an array of {ndim} dimensions twice"
            )
        by_axis[a % ndim] = length
    return by_axis


def block_extents(by_axis: dict[int, int], size: Sizes, ndim: int) -> tuple[int | None, ...]:
    """Length of a block along each axis; None: the whole axis (clause BLK-2)."""
    if size is None and len(by_axis) == ndim:
        by_axis = {}
    other = None if size is None else 1
    return tuple(by_axis.get(a, other) for a in range(ndim))
