"""The oracle over arrays, and what it is judged on."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np

from tests.conformance import spec

oracle = spec.oracle()
FORMATS = spec.formats()


def random_inputs(fmt: Any, count: int = 300) -> list[float]:
    """Numbers spread evenly over the binades of a format and a few beyond, from a fixed seed."""
    draw = random.Random(repr(fmt))
    low, high = oracle.binade(fmt.least) - 3, oracle.binade(fmt.high) + 3
    return [
        draw.choice((-1, 1)) * math.ldexp(1 + draw.getrandbits(23) / 2**23, draw.randint(low, high))
        for _ in range(count)
    ]


def inputs(name: str) -> np.ndarray:
    """The inputs of a format's vector file, and random ones."""
    return np.array([row.input for row in spec.read_round(name)] + random_inputs(FORMATS[name]))


def in_float32(x: np.ndarray) -> np.ndarray:
    """Those that float32 holds."""
    with np.errstate(over="ignore"):
        held: np.ndarray = x[(x.astype(np.float32) == x) | np.isnan(x)]
    return held


def judged(
    x: np.ndarray, fmt: Any, mode: str, policy: str, words: np.ndarray | None = None
) -> np.ndarray:
    """The oracle over an array."""
    drawn = [0] * x.size if words is None else words.tolist()
    return np.array(
        [oracle.quantize(v, fmt, mode, w, policy) for v, w in zip(x.tolist(), drawn, strict=True)]
    )


def assert_same(x: np.ndarray, got: np.ndarray, expected: np.ndarray) -> None:
    """Equal bits, NaN equal to NaN."""
    same = (got.view(np.int64) == expected.view(np.int64)) | (np.isnan(got) & np.isnan(expected))
    bad = np.flatnonzero(~same)[:5]
    assert same.all(), [(x[i].hex(), got[i].hex(), expected[i].hex()) for i in bad]
