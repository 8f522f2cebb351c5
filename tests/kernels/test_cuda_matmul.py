"""The kernels for GPUs multiply matrices to the bits of the reference implementation: here on the
CPU, with thread blocks emulated.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import qemu_swalp as q
from qemu_swalp import kernels
from tests.helpers import emulated
from tests.helpers.samples import ACCUMULATIONS, bits
from tests.kernels.test_matmul import TOO_MUCH, coarse

RANDOM = q.RandomBits(2**40 + 3, q.stream_id("weight", 5), 2**31 + 7, offset=6)


@pytest.mark.parametrize("accumulation", ACCUMULATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products(accumulation: str, dtype: type) -> None:
    """In float32 and in float64, as the operands are; many terms and tiles, batches, special
    numbers.
    """
    rng = np.random.default_rng(0)
    values = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 2.0**-140, 3e38, 2.0**-126], dtype)
    wide = rng.standard_normal((3, 300)).astype(dtype), rng.standard_normal((300, 2)).astype(dtype)
    pairs = [
        wide,
        tuple(q.quantize(x, "e4m3fn") for x in wide),
        (wide[0] * 0, wide[1]),
        np.meshgrid(values, values),
        tuple(coarse(rng, shape, 9).astype(dtype) for shape in ((2, 1, 19, 3), (2, 3, 40))),
    ]
    for a, b in pairs:
        with kernels.disabled():
            expected = q.matmul(a, b, accumulation, random=RANDOM)
        got = emulated.matmul(a, b, accumulation, RANDOM)
        assert ((bits(got) == bits(expected)) | (np.isnan(got) & np.isnan(expected))).all(), a.shape


@settings(max_examples=60)
@given(
    st.sampled_from(ACCUMULATIONS[:1] + ACCUMULATIONS[3:4] + ACCUMULATIONS[5:]),
    st.integers(0, 2**32 - 1),
    st.integers(0, 60),
)
def test_products_are_computed_in_float32_where_that_does(
    accumulation: str, seed: int, spread: int
) -> None:
    rng = np.random.default_rng(seed)
    a, b = coarse(rng, (2, 9), spread), coarse(rng, (9, 3), spread)
    with kernels.disabled():
        expected = q.matmul(a, b, accumulation, random=RANDOM)
    got = emulated.matmul(a, b, accumulation, RANDOM)
    assert ((bits(got) == bits(expected)) | (np.isnan(got) & np.isnan(expected))).all()


@pytest.mark.parametrize("accumulation", ["float<8,21>/to_odd", "fp16/toward_zero"])
def test_products_that_float32_does_not_hold(accumulation: str) -> None:
    for a, b in TOO_MUCH:
        x, y = np.full((2, 3), a, np.float32), np.full((3, 2), b, np.float32)
        got, expected = emulated.matmul(x, y, accumulation, RANDOM), q.matmul(x, y, accumulation)
        assert ((bits(got) == bits(expected)) | np.isnan(got) & np.isnan(expected)).all(), (a, b)


def test_products_read_the_step_in_memory() -> None:
    a, b = coarse(np.random.default_rng(0), (4, 9), 3), coarse(np.random.default_rng(1), (9, 4), 3)
    step = np.array([12], np.uint32)
    got = emulated.matmul(a, b, ACCUMULATIONS[1], RANDOM, step.ctypes.data)
    expected = q.matmul(
        a, b, ACCUMULATIONS[1], random=q.RandomBits(RANDOM.seed, RANDOM.stream, 12, RANDOM.offset)
    )
    assert (bits(got) == bits(expected)).all()
