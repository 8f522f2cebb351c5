"""Times of a candidate and of a copy, measured alternately, so that what else the machine does
bears on both.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

Call = Callable[[], Any]
Clock = Callable[[Call, int], float]
"""(what to call, how often) → seconds of one call."""

SHORTEST = 1e-3
"""Seconds that a measurement lasts at least: of shorter calls it takes several."""

FEWEST, MOST = 3, 100
"""Repeats."""


class Figure(NamedTuple):
    """Seconds of one call of the candidate and of the copy; `median_ratio` is that of the repeats'
    ratios.
    """

    least: float
    median: float
    copy_least: float
    copy_median: float
    median_ratio: float
    repeats: int

    @property
    def ratio(self) -> float:
        return self.least / self.copy_least


def host_clock(call: Call, count: int) -> float:
    """By the host's clock."""
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def alternate(
    clock: Clock, copy: Call, candidate: Call, seconds: float, long: float = math.inf
) -> Figure:
    """Measure both in turn, about so many seconds long, and three times at least unless one call
    takes longer.

    long : seconds; a candidate whose first call takes more is called once, between copies.
    """
    turns = [(copy, _count(clock, copy, clock(copy, 1)))]
    first = clock(candidate, 1)
    if first > long:
        copies = [clock(*turns[0]) for _ in range(FEWEST)]
        middle = statistics.median(copies)
        return Figure(first, first, min(copies), middle, first / middle, 1)
    turns.append((candidate, _count(clock, candidate, first)))
    found: list[tuple[float, ...]] = []
    end = time.perf_counter() + seconds
    while not found or (
        len(found) < MOST
        and (time.perf_counter() < end or (len(found) < FEWEST and found[-1][1] < seconds))
    ):
        found.append(tuple(clock(call, count) for call, count in turns))
    copies, candidates = zip(*found, strict=True)
    return Figure(
        min(candidates),
        statistics.median(candidates),
        min(copies),
        statistics.median(copies),
        statistics.median(mine / base for base, mine in found),
        len(found),
    )


def _count(clock: Clock, call: Call, first: float) -> int:
    """How many calls make a measurement. A first one took so many seconds and touched memory; a
    second one tells.
    """
    return 1 if first > 1 else max(1, round(SHORTEST / max(clock(call, 1), 1e-9)))
