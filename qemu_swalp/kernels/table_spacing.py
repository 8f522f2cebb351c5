"""Tables whose values are, in each binade of the source dtype, the multiples of a power of two, as
those of posits and linear takums, or that are alike in all binades, as logarithmic ones: the
kernels on a CPU round to them by bits, without an index.

Bits of magnitudes are counted from -2^mantissa, where binade 0 begins at a multiple of every power
of two: so intervals of several binades are multiples, too, where they begin at such exponents.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..arrays.dtypes import SourceDtype
from . import structs
from .table_index import Half, Pointer

FLIP = 64
"""Where even multiples are odd codes: their ties are the others'."""
PERIOD_WORDS = 16
"""More than a binade has steps, where all are alike (`src/common/table.h`)."""


class _Steps(NamedTuple):
    """A monotone function of magnitude bits, of few steps: it is known by what it gives at
    `points`, at both sides of each step and at the ends of binades, from the least value that is
    not zero to the greatest.
    """

    steps: np.ndarray
    points: np.ndarray
    values: np.ndarray
    """At each point, and for stochastic modes the next value."""
    following: np.ndarray
    fields: np.ndarray
    """Exponent fields of the binades."""


def spacing_of(
    halves: tuple[Half, Half], source: SourceDtype, stochastic: bool, pointer: Pointer
) -> structs.TableSpacing:
    """What is known of a table for nearest_even or stochastic_a; without binades and a period where
    it is not so.
    """
    positive, negative = halves
    steps, values = positive.steps, positive.bits & ~source.sign
    mirrored = np.array_equal(steps, negative.steps) and np.array_equal(
        values, negative.bits & ~source.sign
    )
    if not mirrored or len(steps) < 2 or values[0] != 0 or (np.diff(values) <= 0).any():
        return structs.TableSpacing()
    found = _sampled(steps, values, source)
    first, word = int(found.fields[0]), f"uint{source.width}"
    ends = int(steps[0]), int(values[1]), int(values[-1])
    powers = _powers(found, source, stochastic)
    if powers is not None:
        return structs.TableSpacing(pointer(powers, word), None, first, len(powers), *ends)
    period = _period(found, source, stochastic)
    if period is not None:
        return structs.TableSpacing(None, pointer(period, word), first, len(found.fields), *ends)
    return structs.TableSpacing()


def _sampled(steps: np.ndarray, values: np.ndarray, source: SourceDtype) -> _Steps:
    fields = np.arange(int(values[1]) >> source.mantissa, (int(values[-1]) >> source.mantissa) + 1)
    edges = [fields << source.mantissa, ((fields + 1) << source.mantissa) - 1]
    points = np.unique(np.clip([*steps, *(steps - 1), *np.ravel(edges)], values[1], values[-1]))
    rank = np.searchsorted(steps, points, side="right")
    following = values[np.minimum(rank + 1, len(values) - 1)]
    return _Steps(steps, points, values[rank], following, fields)


def _powers(found: _Steps, source: SourceDtype, stochastic: bool) -> np.ndarray | None:
    """For each binade the power, and `FLIP`; None if any has none."""
    binade = (found.points >> source.mantissa) - found.fields[0]
    last = found.points == found.points[-1]
    powers = np.full(len(found.fields), -1)
    for power in range(1, source.width - 2):
        for flip in (0,) if stochastic else (0, FLIP):
            if stochastic:
                lower = _multiple(found.points, power, source)
                right = (lower == found.values) & (last | (lower + (1 << power) == found.following))
            else:
                right = _nearest(found.points, power, flip, source) == found.values
            wrong = np.bincount(binade[~right], minlength=len(powers))
            powers[(wrong == 0) & (powers < 0)] = power + flip
        if (powers >= 0).all():
            return powers
    return None


def _multiple(bits: np.ndarray, power: int, source: SourceDtype) -> np.ndarray:
    """The multiples of 2^power that are not above."""
    origin = 1 << source.mantissa
    multiples: np.ndarray = ((bits + origin) >> power << power) - origin
    return multiples


def _nearest(bits: np.ndarray, power: int, flip: int, source: SourceDtype) -> np.ndarray:
    """The nearest multiples, ties to even ones, or to odd ones where `flip`."""
    odd = (((bits + (1 << source.mantissa)) >> power) ^ (flip != 0)) & 1
    return _multiple(bits + (1 << (power - 1)) - 1 + odd, power, source)


def _period(found: _Steps, source: SourceDtype, stochastic: bool) -> np.ndarray | None:
    """Steps of a binade, values and next values, as what is added to the bits where it begins; None
    if binades differ.
    """
    mask = (1 << source.mantissa) - 1
    middle = found.fields[len(found.fields) // 2] << source.mantissa
    steps = found.steps[(found.steps >= middle) & (found.steps <= middle + mask)] - middle
    if len(steps) >= PERIOD_WORDS:
        return None
    at = middle + np.append(0, steps)  # a point in each interval, its first
    place = np.searchsorted(found.points, at)
    if place[-1] >= len(found.points) or (found.points[place] != at).any():
        return None
    added = [column[place] - middle for column in (found.values, found.following)]
    rank = np.searchsorted(steps, found.points & mask, side="right")
    binade = found.points & ~mask
    right = binade + added[0][rank] == found.values
    if stochastic:
        right &= (binade + added[1][rank] == found.following) | (found.points == found.points[-1])
    if not right.all():
        return None
    period = np.zeros((3, PERIOD_WORDS), np.int64)
    period[0] = (1 << (source.width - 1)) - 1
    period[0, : len(steps)] = steps
    for column, values in zip(period[1:], added, strict=True):
        column[: len(values)] = values
    return period
