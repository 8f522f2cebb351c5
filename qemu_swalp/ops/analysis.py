"""What rounding does to an array, in figures: errors, what leaves the range, what is lost, what it
costs in bits.

`quantize` costs nothing more for it. The array is rounded by its own library; the figures are then
computed on the host, in float64, so that they are the same in every library.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..arrays import Array, Namespace, host, namespace_of
from ..arrays.dtypes import source_dtype
from ..formats import Format, Overflow, parse
from ..random_bits import RandomBits
from ..reference.context import Context, Target
from ..reference.overflow import MARK
from ..rounding import Rounding
from .arguments import as_array, as_arrays
from .given import check_given
from .pack import packed_bytes
from .quantize import quantize, round_array

CHUNK = 1 << 16
"""Elements converted to float64 at a time."""


@dataclass(frozen=True)
class Analysis:
    """Figures of an array x and its quantization Q(x). Sums and counts, so those of several arrays
    add up: `sum(analyses, Analysis())` are the figures of all their elements together.
    """

    count: int = 0
    """Elements."""
    stored_bytes: int = 0
    """Bytes of the packed codes, those of scales and zero points included (`packed_bytes`)."""
    signal: float = 0.0
    """Σ x² over the elements that are finite before and after (`compared` of them)."""
    noise: float = 0.0
    """Σ (Q(x) − x)² over the same."""
    error: float = 0.0
    """Σ (Q(x) − x) over the same."""
    max_abs_error: float = 0.0
    """Greatest |Q(x) − x| of the same; 0 without any."""
    max_rel_error: float = 0.0
    """Greatest |Q(x) − x|/|x| of those of them that are not 0; 0 without any."""
    saturated: int = 0
    """Elements out of the range that became finite: an end of the range (clauses RND-7, RND-8 and
    FMT-9). That of a block format is the element format's, times the scale of the block. Infinities
    among them. What merely rounds to the end of the range is within it.
    """
    flushed: int = 0
    """Elements within the range, other than 0, that became 0 (underflow)."""
    unchanged: int = 0
    """Elements with Q(x) = x; NaN that stay NaN and a −0 that becomes 0 among them."""
    infinite: int = 0
    """Infinities in x."""
    nan: int = 0
    """NaN in x."""
    to_infinity: int = 0
    """Finite elements that became infinite (overflow policy "infinity")."""
    to_nan: int = 0
    """Finite elements that became NaN: by the overflow policy "nan", or with their block (clause
    BLK-13).
    """

    @property
    def compared(self) -> int:
        """Elements that are finite before and after."""
        return self.count - self.infinite - self.nan - self.to_infinity - self.to_nan

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise ratio, 10·log10(signal/noise), in dB: infinity without
        noise, NaN where nothing is compared or all of it is 0.
        """
        if self.noise == 0:
            return math.inf if self.signal else math.nan
        return 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf

    @property
    def mean_error(self) -> float:
        """Mean of Q(x) − x: the bias of the rounding. NaN where nothing is compared."""
        return self.error / self.compared if self.compared else math.nan

    @property
    def share_saturated(self) -> float:
        """saturated/count; NaN without elements, as the other shares."""
        return self._share(self.saturated)

    @property
    def share_nonfinite(self) -> float:
        """(infinite + nan)/count."""
        return self._share(self.infinite + self.nan)

    @property
    def share_flushed(self) -> float:
        """flushed/count."""
        return self._share(self.flushed)

    @property
    def share_unchanged(self) -> float:
        """unchanged/count."""
        return self._share(self.unchanged)

    @property
    def bits_per_element(self) -> float:
        """8·stored_bytes/count."""
        return self._share(8 * self.stored_bytes)

    def _share(self, part: int) -> float:
        return part / self.count if self.count else math.nan

    def __add__(self, other: Analysis) -> Analysis:
        if not isinstance(other, Analysis):
            return NotImplemented
        return Analysis(
            **{
                f.name: _together(f.name, getattr(self, f.name), getattr(other, f.name))
                for f in fields(self)
            }
        )


@dataclass(frozen=True)
class UpdateAnalysis:
    """How many updates of an array of weights are lost in rounding. Those of several arrays add
    up.
    """

    updates: int = 0
    """Elements whose update is not 0 (nor NaN)."""
    lost: int = 0
    """Those of them that stay where they were."""

    @property
    def zero_update_rate(self) -> float:
        """lost/updates; NaN without updates."""
        return self.lost / self.updates if self.updates else math.nan

    def __add__(self, other: UpdateAnalysis) -> UpdateAnalysis:
        if not isinstance(other, UpdateAnalysis):
            return NotImplemented
        return UpdateAnalysis(self.updates + other.updates, self.lost + other.lost)


def analyze(
    x: Array,
    format: Format | str,
    rounding: Rounding | str = "nearest_even",
    *,
    random: RandomBits | Array | None = None,
    overflow: Overflow | None = None,
    scales: Any = None,
    zero_points: Any = None,
) -> Analysis:
    """Figures of what `quantize` with the same arguments does to x.

    Arguments and errors are those of `quantize`; and TypeError for an array without values, as in a
    traced graph. The array stays as it is. Sums of squares are those of float64: beyond 10^154 they
    are infinite.

    >>> figures = analyze([0.3, 2.0, -500.0, 0.0001], "e4m3fn")
    >>> figures.count, figures.saturated, figures.flushed, figures.unchanged
    (4, 1, 1, 1)
    >>> f"{figures.sqnr_db:.2f} dB, errors up to {figures.max_abs_error}"
    '19.66 dB, errors up to 52.0'
    """
    format, rounding = parse(format), Rounding.parse(rounding)
    x = as_array(x, format)
    options = {"random": random, "scales": scales, "zero_points": zero_points}
    result = quantize(x, format, rounding, overflow=overflow, **options)
    xp = namespace_of(x)
    ctx = Context(xp, source_dtype(xp.dtype(x)))
    given = check_given(ctx, x, format, scales, zero_points)
    marked = round_array(ctx, x, Target(format, MARK, rounding), random, given=given)
    before, after, marked = (host("x", a).reshape(-1) for a in (x, result, marked))
    return _figures(before, after, marked, packed_bytes(xp.shape(x), format))


def analyze_update(
    weight: Array,
    update: Array,
    format: Format | str,
    rounding: Rounding | str = "nearest_even",
    *,
    random: RandomBits | Array | None = None,
    overflow: Overflow | None = None,
) -> UpdateAnalysis:
    """How many elements of an update are lost: Q(weight + update) = weight, where update ≠ 0.

    weight, update : arrays of one library, shape and dtype, added in that dtype; the weights are
        values of the format (others are moved by rounding alone). The other arguments and the
        errors are those of `quantize`.

    >>> import numpy as np
    >>> weight, update = np.float32([1.0, 1.0, 0.25, 0.5]), np.float32([0.01, 0.07, 0.01, 0.0])
    >>> analyze_update(weight, update, "e4m3fn").zero_update_rate
    0.6666666666666666
    """
    weight, update = as_arrays(weight, update)
    xp = namespace_of(weight)
    _check_update(xp, weight, update)
    result = quantize(weight + update, format, rounding, random=random, overflow=overflow)
    before, change, after = (host("weight and update", a) for a in (weight, update, result))
    updated = (change != 0) & (change == change)
    return UpdateAnalysis(int(updated.sum()), int((updated & (after == before)).sum()))


def _check_update(xp: Namespace, weight: Array, update: Array) -> None:
    if not xp.owns(update):
        raise TypeError(
            f"update must be a {xp.name} array like weight, got "
            f"{type(update).__module__}.{type(update).__qualname__}"
        )
    if not xp.same_shape(weight, update) or xp.dtype(weight) != xp.dtype(update):
        raise ValueError(
            f"update must have the shape {tuple(weight.shape)} and dtype {xp.dtype(weight)} of"
            f" weight, got {tuple(update.shape)} and {xp.dtype(update)}"
        )


def _together(name: str, a: Any, b: Any) -> Any:
    return max(a, b) if name.startswith("max_") else a + b


def _figures(x: np.ndarray, result: np.ndarray, marked: np.ndarray, stored_bytes: int) -> Analysis:
    """x, Q(x), and Q(x) with NaN for what is out of range."""
    starts = range(0, x.size, CHUNK)
    parts = (
        _figures_of(*(a[i : i + CHUNK].astype(np.float64) for a in (x, result, marked)))
        for i in starts
    )
    return sum(parts, Analysis(stored_bytes=stored_bytes))


def _figures_of(x: np.ndarray, result: np.ndarray, marked: np.ndarray) -> Analysis:
    nan, infinite, finite = np.isnan(x), np.isinf(x), np.isfinite(x)
    beyond, lost, escaped = np.isnan(marked) & ~nan, np.isnan(result), np.isinf(result)
    there = finite & np.isfinite(result)
    before = x[there]
    error = result[there] - before
    magnitude, off = np.abs(before), np.abs(error)
    nonzero = magnitude > 0
    with np.errstate(over="ignore"):
        return Analysis(
            count=x.size,
            signal=float(before @ before),
            noise=float(error @ error),
            error=float(error.sum()),
            max_abs_error=float(off.max(initial=0)),
            max_rel_error=float((off[nonzero] / magnitude[nonzero]).max(initial=0)),
            saturated=_count(beyond & np.isfinite(result)),
            flushed=_count((result == 0) & (x != 0) & ~beyond),
            unchanged=_count((result == x) | (nan & lost)),
            infinite=_count(infinite),
            nan=_count(nan),
            to_infinity=_count(finite & escaped),
            to_nan=_count(finite & lost),
        )


def _count(mask: np.ndarray) -> int:
    return int(np.count_nonzero(mask))
