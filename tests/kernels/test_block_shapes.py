"""Blocks of every shape under scales of every kind, in arrays of every layout: the kernels give the
bits of the reference implementation, and are used.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import qemu_swalp as q
from qemu_swalp import kernels
from tests.helpers.samples import DTYPES, ROUNDINGS, array, bits

SCALES = (
    "block<fixed<4,2>,axis={axis},size={size},scale=exponent<8>>",
    "block<e2m1fn,axis={axis},size={size},scale=e8m0fnu,rule=even>",
    "block<e3m2fn,axis={axis},size={size},rule=rceil>",
    "block<e5m2,axis={axis},size={size},rule=ceil>",
    "int<8,axis={axis},size={size}>",
    "int<4,zero_point,axis={axis},size={size}>",
    "block<e4m3fn,axis={axis},size={size},scale=bf16>",
    "block<e5m2,axis={axis},size={size},scale=bf16>",
    "block<e2m1fn,axis={axis},size={size},scale=e4m3fn>",
    "block<e4m3fn,axis={axis},size={size},scale=e4m3fn,second=float<8,23>>",
    "block<e2m1fn,axis={axis},size={size},scale=e4m3fn,rule=torchao,second=float<8,23>>",
    "block<e2m1fn,axis={axis},size={size},scale=e4m3fn,rule=transformer_engine,second=float<8,23>>",
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, str]:
    """An array with NaN, infinities, subnormals and zeros or without them, and a format."""
    shape = tuple(
        draw(st.lists(st.sampled_from([1, 2, 3, 5, 8, 16, 17, 33, 70]), min_size=1, max_size=4))
    )
    while math.prod(shape) > 20_000:
        shape = shape[1:]
    axes = draw(st.permutations(range(len(shape))))[: draw(st.integers(1, len(shape)))]
    size = draw(st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 32, 48, 100]))
    dtype = draw(st.sampled_from(DTYPES))
    sample = array(dtype, (48, 419)).reshape(-1)  # ordinary numbers, then all kinds of them
    start = 0 if draw(st.booleans()) else sample.size - math.prod(shape)
    x = sample[start : start + math.prod(shape)].reshape(shape)
    order = draw(st.permutations(range(len(shape))))
    x = np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))
    if draw(st.booleans()):
        x = np.repeat(x, 2, axis=-1)[..., ::2]
    format = draw(st.sampled_from(SCALES)).format(
        axis=f"({','.join(map(str, axes))})" if len(axes) > 1 else axes[0], size=size
    )
    return x, format


def _outcome(x: np.ndarray, format: str, rounding: str, **options: Any) -> Any:
    try:
        return q.quantize(x, format, rounding, **options)
    except (TypeError, ValueError) as error:
        return str(error)


@settings(max_examples=400, deadline=None)
@given(cases(), st.sampled_from(ROUNDINGS), st.integers(0, 9))
def test_blocks_of_every_shape(case: tuple[np.ndarray, str], rounding: str, offset: int) -> None:
    x, format = case
    random = q.RandomBits(1, 2, 3, offset) if "stochastic" in rounding else None
    got = _outcome(x, format, rounding, random=random)
    with kernels.disabled():
        expected = _outcome(x, format, rounding, random=random)
    if isinstance(expected, str):
        assert got == expected
    else:
        assert (bits(got) == bits(expected)).all()


@pytest.mark.parametrize("shape", [(0,), (0, 3), (4, 0, 2)])
def test_blocks_of_nothing(shape: tuple[int, ...]) -> None:
    x = np.empty(shape, np.float32)
    for format in ("int<8,axis=-1,size=3>", "mxfp4", "nvfp4"):
        assert q.quantize(x, format).shape == shape


@pytest.mark.parametrize("format", ["int<8,axis=1>", "block<e2m1fn,axis=0,size=16,scale=e4m3fn>"])
@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
def test_scales_beside_one_another_in_two_passes(format: str, rounding: str) -> None:
    """Blocks of more elements than a task holds, a column each."""
    x = np.random.default_rng(0).standard_normal((70_000, 3)).astype(np.float32)
    x[5], x[7, 1] = np.inf, np.nan
    random = q.RandomBits(4) if rounding == "stochastic" else None
    got = q.quantize(x, format, rounding, random=random)
    with kernels.disabled():
        assert (bits(got) == bits(q.quantize(x, format, rounding, random=random))).all()
