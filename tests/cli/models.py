"""A model in a file, and the rows of a table that is printed."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

Capture = pytest.CaptureFixture[str]


RNG = np.random.default_rng(0)


WEIGHT = RNG.standard_normal((24, 64)).astype(np.float32)


STATE = {
    "a.weight": WEIGHT,
    "a.bias": WEIGHT[0].astype(ml_dtypes.bfloat16),
    "b.weight": WEIGHT[:8].astype(np.float16),
    "c.weight": np.where(WEIGHT > 2, np.inf, WEIGHT).astype(np.float64),
    "steps": np.array(3),
    "mask": WEIGHT > 0,
}


def rows(text: str) -> dict[str, list[str]]:
    """Lines of a table by their first cell, cells apart by two spaces."""
    cells = [
        [cell.strip() for cell in line.split("  ") if cell.strip()]
        for line in text.splitlines()
        if line.strip()
    ]
    return {row[0]: row[1:] for row in cells}
