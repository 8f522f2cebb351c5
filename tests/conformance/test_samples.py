"""Named formats compared with the oracle on a sample of every kind of input: those without vector
files, and modes that the files do without.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

import qemu_swalp as q
from tests.conformance import spec
from tests.helpers.backends import same_bits

oracle = spec.oracle()
NAMES = sorted(
    name
    for name, fmt in spec.formats().items()
    if isinstance(fmt, oracle.Element) and name not in spec.round_names()
)
LISTED = [name for name in spec.round_names() if spec.formats()[name].bits <= 16]
"""Formats with vector files whose values can be listed."""


def places(fmt: Any, count: int) -> list[int]:
    """Places of adjacent pairs: the first and last ones, those about zero, and others at random."""
    last = q.parse(oracle.spell(fmt)).value_count - 2
    drawn = random.Random(repr(fmt))
    middle = last // 2
    fixed = {place for place in (0, 1, middle, middle + 1, last - 1, last) if 0 <= place <= last}
    return sorted(fixed | {drawn.randint(0, last) for _ in range(count)})


def check_rounding(fmt: Any, f: Any, at: np.ndarray, modes: tuple[str, ...]) -> None:
    """About the values of those places and the next, midpoints and boundaries, and the ends."""
    values = np.array(f.values())
    low, high = values[at], values[at + 1]
    geometric = np.sqrt(np.abs(low)) * np.sqrt(np.abs(high)) * np.sign(low + high)
    ends = [f.max * 2, f.min * 2, 0.0, -0.0, np.inf, -np.inf]
    marks = np.concatenate([low, high, low / 2 + high / 2, geometric, ends])
    x = np.concatenate([marks, np.nextafter(marks, np.inf), np.nextafter(marks, -np.inf)])
    for mode in modes:
        expected = np.array([oracle.quantize(v, fmt, mode) for v in x.tolist()])
        assert same_bits(q.quantize(x, f, mode), expected).all(), mode


@pytest.mark.parametrize("name", NAMES)
def test_sample(name: str) -> None:
    """FMT-11 to FMT-14, RND-4, RND-7, RND-12; codes and values of those."""
    fmt, f = spec.formats()[name], q.parse(name)
    at = np.array(places(fmt, 60 if fmt.bits > 8 else 40))
    check_rounding(fmt, f, at, (*oracle.DETERMINISTIC, *oracle.TIES))
    low = np.array(f.values())[at]
    codes = q.encode(low, f)
    assert [fmt.encode(v) for v in low.tolist()] == codes.tolist()
    assert [fmt.decode(code) for code in codes.tolist()] == low.tolist()


@pytest.mark.parametrize("name", LISTED)
def test_ties(name: str) -> None:
    """RND-4: ties up and toward zero, which the vector files of these formats do without."""
    fmt = spec.formats()[name]
    f = q.parse(oracle.spell(fmt))
    check_rounding(fmt, f, np.array(places(fmt, 40)), oracle.TIES)
