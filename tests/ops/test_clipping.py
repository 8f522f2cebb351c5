"""Which numbers a rounding clips."""

from __future__ import annotations

import numpy as np
import pytest

from qemu_swalp.ops.clipping import clipped
from tests.helpers.backends import Backend


@pytest.mark.parametrize(
    ("form", "x", "mask"),
    [
        ("e2m1fn", [6.0, 6.1, -6.5, np.nan, -0.0, np.inf], [0, 1, 1, 0, 0, 1]),
        ("fixed<4,0,unsigned>", [15.0, 15.5, -0.5, 0.0], [0, 1, 1, 0]),
        (
            "block<e2m1fn,axis=-1,size=2,scale=e8m0fnu>",  # the scale is of the block's greatest
            [7.0, 1.0, 8.0, 1.0, -16.5, -7.0, 0.0, 0.0],
            [1, 0, 0, 0, 0, 0, 0, 0],
        ),
    ],
)
def test_masks(backend: Backend, form: str, x: list[float], mask: list[int]) -> None:
    with backend.context("float32"):
        found = backend.numpy(
            backend.call(lambda a: clipped(a, form), backend.array(np.float32([x])))
        )
    assert found.astype(int).tolist() == [mask]
