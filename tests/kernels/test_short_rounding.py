"""The short sequences of `src/cuda/short_rounding.h` have the bits of the reference implementation:
the same source, on the CPU.
"""

from __future__ import annotations

import contextlib

import ml_dtypes
import numpy as np
import pytest

import qemu_swalp as q
from qemu_swalp import kernels
from tests.helpers import emulated
from tests.helpers.samples import POLICIES, bits

RANDOM = q.RandomBits(3, 5, 7)
FORMATS = (
    "e4m3fn",  # saturating
    "e5m2",  # to infinity
    "e4m3fnuz",  # no negative zero
    "bf16",  # the same bits in every binade
    "fp16",
    "fixed<8,6>",  # one spacing, ends that differ
    "fixed<24,40>",
    "fixed<8,-110>",  # beyond what 2^23 spacings are a number of: by the long way
    "float<8,12>",
    "float<4,3,subnormals=false>",  # spacings that do not meet: by the long way
    "fixed<12,5,unsigned>",
)
BLOCKS = ("bfp<8,axis=-1>", "mxfp4", "mxfp8_e5m2", "bfp<6,range=twos>")


def every_exponent(step: int) -> np.ndarray:
    """float32 numbers of both signs: each exponent, subnormals, infinities and NaN among them, with
    mantissas that lie evenly or are ties somewhere, one above and one below these.
    """
    ties = [odd << k for k in range(23) for odd in (1, 3, 5) if odd << k < 1 << 23]
    even = np.concatenate([np.arange(0, 1 << 23, step), ties])
    mantissas = np.unique(np.concatenate([even, even + 1, (even - 1) % (1 << 23)]))
    fields = np.arange(512, dtype=np.uint32)[:, None] << 23
    return (fields | mantissas.astype(np.uint32)).ravel().view(np.float32)


def every_16_bits(dtype: type) -> np.ndarray:
    return np.arange(1 << 16, dtype=np.uint16).view(dtype)


def check(
    x: np.ndarray, format: str, rounding: str, overflow: str | None = None, compiled: bool = False
) -> None:
    """compiled : whether by the CPU's kernels, of which `every_float32.py` asks every number."""
    try:
        with contextlib.nullcontext() if compiled else kernels.disabled():
            expected = q.quantize(x, format, rounding, random=RANDOM, overflow=overflow)
    except (TypeError, ValueError):
        return  # the dtype, or the format, does not go with these
    got = emulated.quantize(x, format, rounding, RANDOM, overflow)
    assert (bits(got) == bits(expected)).all(), (format, rounding, overflow, x.dtype)


@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
@pytest.mark.parametrize("format", FORMATS)
def test_every_exponent(format: str, rounding: str) -> None:
    numbers = (every_exponent(1 << 17), every_16_bits(ml_dtypes.bfloat16)[::3])
    for x in (*numbers, every_16_bits(np.float16)[::3]):
        for overflow in (None, *POLICIES):
            check(x, format, rounding, overflow)


@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
@pytest.mark.parametrize("format", BLOCKS)
def test_under_every_scale(format: str, rounding: str) -> None:
    """Blocks whose greatest magnitudes lie in every binade."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((260, 64)).astype(np.float32)
    powers = np.arange(-135, 125)[:, None]
    with np.errstate(over="ignore", under="ignore"):
        scaled = np.ldexp(x, powers).astype(np.float32)
    scaled[::7, 3] = 0.0
    scaled[::11, 5] = -0.0
    for dtype in (np.float32, ml_dtypes.bfloat16, np.float16):
        with np.errstate(over="ignore", under="ignore"):
            check(scaled.astype(dtype), format, rounding)


@pytest.mark.exhaustive
@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
@pytest.mark.parametrize("format", FORMATS)
def test_every_16_bits(format: str, rounding: str) -> None:
    for dtype in (ml_dtypes.bfloat16, np.float16):
        for overflow in (None, *POLICIES):
            check(every_16_bits(dtype), format, rounding, overflow)


@pytest.mark.exhaustive
@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
@pytest.mark.parametrize("format", FORMATS[:8])
def test_every_float32(format: str, rounding: str) -> None:
    for start in range(0, 1 << 32, 1 << 22):
        words = np.arange(start, start + (1 << 22), dtype=np.uint64).astype(np.uint32)
        check(words.view(np.float32), format, rounding, compiled=True)
