"""Axes by their meaning, and the numbers that a layout gives them (clause BLK-14).

Where the output channels of a weight stand differs from layer to layer: `nn.Linear` of PyTorch
keeps them along axis 0, `Dense` of Keras along axis 1. A format that says `axis=out` means the same
in both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .._util.checks import check_choice, check_int

AXIS_WORDS = ("out", "in", "sum", "batch")
"""Words for an axis. "out": output channels of a weight; "in": its input channels; "sum": what the
layer's product sums over; "batch": samples of an activation or error.
"""

Axis = int | tuple[int, ...] | Mapping[int, int]
"""What a word stands for in one array: see `Format.resolve`."""

Layout = Mapping[str, Axis]

VECTOR: Layout = dict.fromkeys(AXIS_WORDS, 0)
"""The layout of an array of one dimension: each word is its only axis, so without a size it is one
block (the rule of small-block SWALP for biases).
"""


def words_in(axes: Iterable[int | str] | None) -> tuple[str, ...]:
    """The words among axes."""
    return tuple(a for a in axes or () if isinstance(a, str))


def unresolved(format: object, words: Iterable[str]) -> ValueError:
    """The error where an array meets a format whose axes are words."""
    calls = ", ".join(f"{'in_' if word == 'in' else word}=…" for word in words)
    return ValueError(
        f"{format} names its axis by the word {', '.join(map(repr, words))}, which stands for"
        f" another number in each layer's layout; give the number, as in axis=0, or by"
        f" .resolve({calls}) of the format, quantizer or recipe"
    )


def checked_layout(
    layout: Layout | None, axes: Mapping[str, Axis]
) -> dict[str, tuple[int, ...] | dict[int, int]]:
    """Word → its axes, or {axis: length of the run that is one index of it}.

    Parameters
    ----------
    layout, axes : as in `Format.resolve`.

    Raises
    ------
    TypeError, ValueError: if they are not of that form.
    """
    if layout is not None and not isinstance(layout, Mapping):
        raise TypeError(f"layout must be a mapping such as {{'out': 0}}, got {layout!r}")
    named = {**(layout or {}), **{name.removesuffix("_"): axis for name, axis in axes.items()}}
    for word in named:
        check_choice("the word for an axis", word, AXIS_WORDS)
    return {word: _checked_axis(word, axis) for word, axis in named.items()}


def _checked_axis(word: str, axis: Any) -> tuple[int, ...] | dict[int, int]:
    several = isinstance(axis, Iterable) and not isinstance(axis, str)
    checked = dict(axis) if isinstance(axis, Mapping) else tuple(axis) if several else (axis,)
    for a in checked:
        check_int(f"the axis that {word!r} stands for", a, -64, 63)
    if isinstance(checked, dict):
        for a, length in checked.items():
            check_int(f"the run along axis {a} that is an index of {word!r}", length, 1, 2**31 - 1)
    return checked


def resolved(
    format: object,
    axes: tuple[int | str, ...] | None,
    size: int | tuple[int, ...] | None,
    layout: Layout | None,
    more: Mapping[str, Axis],
) -> tuple[Any, Any]:
    """Axes and size with numbers for the words.

    A word without a size stands for blocks that are one index of it; with a size, for runs along
    its axis. Where several words, or words and numbers, bound a block along one axis, the tightest
    bound counts.

    Raises
    ------
    TypeError, ValueError: as `Format.resolve`.
    """
    known = checked_layout(layout, more)
    words = words_in(axes)
    if axes is None or not words:
        return axes, size
    if missing := [word for word in words if word not in known]:
        raise unresolved(format, missing)
    lengths = size if isinstance(size, tuple) else (size or 1,) * len(axes)
    bounds: dict[int, int] = {}
    by_runs = size is not None
    for a, length in zip(axes, lengths, strict=True):
        stands_for = known[a] if isinstance(a, str) else (a,)
        if size is not None:
            runs = {_single(format, a, tuple(stands_for)): length}
        elif isinstance(stands_for, dict):
            runs, by_runs = stands_for, True
        else:
            runs = dict.fromkeys(stands_for, 1)
        for axis, run in runs.items():
            bounds[axis] = min(run, bounds.get(axis, run))
    return tuple(bounds) or None, tuple(bounds.values()) if by_runs else None


def _single(format: object, word: int | str, axes: tuple[int, ...]) -> int:
    """The axis that a size runs along. ValueError if a word does not stand for just one."""
    if len(axes) != 1:
        stands_for = f"axes {', '.join(map(str, axes))} together" if axes else "no axis"
        raise ValueError(
            f"{format}: a size runs along a single axis, and {word!r} stands for {stands_for} in"
            " this layout; leave the size out, or give the axes by number"
        )
    return axes[0]
