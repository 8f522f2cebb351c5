"""An index into a table of values, by the leading bits of a magnitude, for the kernels on a CPU.

For each sign a table is a list of steps, magnitude bits in ascending order: after p of them an
element becomes value p, or, rounded stochastically, lies in interval p. A bucket holds the
magnitudes that share their leading bits; it tells how many steps lie before it, and what lies
within it is found by comparing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..arrays.dtypes import SourceDtype
from ..formats import TableFormat
from ..reference.table_stochastic import SignView
from . import structs

MOST_BUCKETS = 1 << 20
"""Of both signs: 4 MB of float32, of which ordinary numbers touch a small part."""

Pointer = Callable[[Any, str], int]


class Half(NamedTuple):
    """One sign's part: `bits`, `starts` and `widths` have one entry more than `steps`."""

    steps: np.ndarray
    bits: np.ndarray
    starts: np.ndarray
    widths: np.ndarray


def of_thresholds(thresholds: np.ndarray, values: np.ndarray) -> tuple[Half, Half]:
    """For deterministic modes: a positive element becomes the upper value at the threshold, a
    negative one the lower value beyond it.
    """
    zero = int(np.searchsorted(thresholds, 0, side="right"))
    positive, negative = thresholds[zero:], 1 - thresholds[:zero][::-1]
    none = np.zeros(0)
    return (
        Half(positive, values[zero:], none, none),
        Half(negative, values[: zero + 1][::-1], none, none),
    )


def of_view(format: TableFormat, view: SignView, sign: int, source: SourceDtype) -> Half:
    """For stochastic modes: the intervals [start, start + width) between values; the width -1
    outside of all, NaN where it is so small or great that the kernels look at each element.
    """
    values = np.sort(np.array([sign * float(v) for v in format.finite]))
    starts = values[:-1]
    kind, least = (np.float64, 2.0**-900) if source.width == 64 else (np.float32, 2.0**-100)
    with np.errstate(over="ignore"):
        widths: np.ndarray = np.diff(values).astype(kind)
    widths = np.where(np.isfinite(widths) & (widths >= least), widths, np.nan)
    first = view.not_positive - 1  # the interval after no step, -1 before all values
    starts = np.append(starts, 0.0)
    widths = np.append(widths, -1.0)
    at = np.arange(first, first + len(view.keys) + 1)
    return Half(
        view.keys,
        view.bits[np.clip(at, 0, len(view.bits) - 1)],
        np.where(at < 0, 0.0, starts[at]),
        np.where(at < 0, -1.0, widths[at]),
    )


def index_of(
    halves: tuple[Half, Half], source: SourceDtype, pointer: Pointer
) -> structs.TableIndex:
    """The index of both signs, positive first."""
    steps = [half.steps for half in halves]
    shift, levels, low, high = _buckets(steps)
    most = (1 << (source.width - 1)) - 1
    pad = 1 << levels
    storage = -1 if source.storage == 64 else (1 << source.storage) - 1
    word, real = ("uint64", "float64") if source.width == 64 else ("uint32", "float32")
    edges = np.arange(low, high + 1) << shift
    first = [np.searchsorted(step, edges) for step in steps]
    first[1] += len(steps[0]) + pad
    columns = [
        _joined(steps, pad, most).astype(word),
        (_joined([half.bits for half in halves], pad - 1, 0) & storage).astype(word),
    ]
    if len(halves[0].starts):
        columns += [
            _joined(list(parts), pad - 1, 0).astype(real).view(word)
            for parts in zip(*((half.starts, half.widths) for half in halves), strict=True)
        ]
    return structs.TableIndex(
        pointer(np.concatenate(first).astype(word), word),
        pointer(np.stack(columns, axis=1), word),  # side by side: one line of a cache
        shift,
        levels,
        low,
        high,
    )


def _joined(halves: list[np.ndarray], pad: int, value: int) -> np.ndarray:
    """Both, each followed by so many of a value."""
    return np.concatenate([np.append(half, np.full(pad, value, half.dtype)) for half in halves])


def _buckets(signs: list[np.ndarray]) -> tuple[int, int, int, int]:
    """(bits of a magnitude within a bucket, levels of a search within it, first and last bucket):
    the largest buckets with a step of each sign at most, or as many as there may be.
    """
    ends = [int(end) for steps in signs if len(steps) for end in (steps[0], steps[-1])] or [0]
    gaps = [int(np.diff(steps).min()) for steps in signs if len(steps) > 1]
    shift = max(min(gaps, default=1).bit_length() - 1, 0)
    while (max(ends) >> shift) - (min(ends) >> shift) >= MOST_BUCKETS // 2:
        shift += 1
    within = max(
        int(np.unique(steps >> shift, return_counts=True)[1].max()) if len(steps) else 0
        for steps in signs
    )
    return shift, max(within, 1).bit_length(), min(ends) >> shift, max(ends) >> shift
