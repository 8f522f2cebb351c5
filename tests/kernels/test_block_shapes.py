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
from qemu_swalp.reference.blocks import blocks_shape
from tests.helpers.formats import Signs
from tests.helpers.samples import DTYPES, POLICIES, ROUNDINGS, array, bits

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
TABLES_AND_SEARCHES = (
    "block<nf4,axis={axis},size={size},scale=float<8,23>>",
    "block<nf4,axis={axis},size={size},scale=e8m0fnu>",
    "block<nf4,axis={axis},size={size},scale=e4m3fn,second=float<8,23>>",
    "block<nf4,axis={axis},size={size},scale=float<8,23>,rule=mse>",
    f"block<{Signs()},axis={{axis}},size={{size}},scale=bf16>",
    "block<posit8,axis={axis},size={size},scale=bf16,top=1>",
    "block<posit16,axis={axis},size={size},top=1>",
    "block<codebook<-3,0.1,0.5,40>,axis={axis},size={size},scale=fp16>",
    "block<codebook<2,5>,axis={axis},size={size},scale=exponent<12>>",
    "block<logarithmic<6,2>,axis={axis},size={size},scale=float<8,23>>",
    "block<takum_linear4,axis={axis},size={size},scale=bf16,top=1>",
    "block<e2m1fn,axis={axis},size={size},scale=e8m0fnu,rule=mse>",
    "block<e5m2,axis={axis},size={size},scale=float<8,23>,rule=mse>",
    "block<fixed<4,0,symmetric>,axis={axis},size={size},scale=e4m3fn,second=float<8,23>,rule=mse>",
    "block<e2m1fn,axis={axis},size={size},scale=e4m3fn,second=float<8,23>,rule=four_over_six>",
    "block<e2m1fn,axis={axis},size={size},scale=bf16,rule=four_over_six>",
    "block<fixed<8,0,symmetric>,axis={axis},size={size},scale=fp16,rule=ggml>",
    "block<e4m3fn,axis={axis},size={size},scale=float<8,23>,rule=ggml>",
    "block<e4m3fn,axis={axis},size={size},scale=float<8,23>,top=16>",
    "block<fixed<8,6>,axis={axis},size={size},rule=rceil,top=3>",
)


@st.composite
def cases(
    draw: st.DrawFn, formats: tuple[str, ...] = SCALES, tiny: bool = False
) -> tuple[np.ndarray, str]:
    """An array with NaN, infinities, subnormals and zeros or without them, and a format. tiny :
    whether its numbers may also lie near either end of their range.
    """
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
    if tiny:
        with np.errstate(over="ignore"):
            x = x * np.ldexp(np.ones((), x.dtype), draw(st.sampled_from([-90, -30, 0, 0, 30, 90])))
    format = draw(st.sampled_from(formats)).format(
        axis=f"({','.join(map(str, axes))})" if len(axes) > 1 else axes[0], size=size
    )
    return x, format


def _outcome(x: np.ndarray, format: str, rounding: str, **options: Any) -> Any:
    try:
        return q.quantize(x, format, rounding, **options)
    except (TypeError, ValueError) as error:
        return str(error)


def agree(x: np.ndarray, format: str, rounding: str, **options: Any) -> None:
    got = _outcome(x, format, rounding, **options)
    with kernels.disabled():
        expected = _outcome(x, format, rounding, **options)
    if isinstance(expected, str):
        assert got == expected
    else:
        assert (bits(got) == bits(expected)).all()


def random_of(rounding: str, offset: int) -> q.RandomBits | None:
    return q.RandomBits(1, 2, 3, offset) if "stochastic" in rounding else None


@settings(max_examples=400, deadline=None)
@given(cases(), st.sampled_from(ROUNDINGS), st.integers(0, 9))
def test_blocks_of_every_shape(case: tuple[np.ndarray, str], rounding: str, offset: int) -> None:
    agree(*case, rounding, random=random_of(rounding, offset))


@settings(max_examples=300, deadline=None)
@given(
    cases(TABLES_AND_SEARCHES, tiny=True),
    st.sampled_from(ROUNDINGS),
    st.integers(0, 9),
    st.sampled_from([None, None, *POLICIES]),
)
def test_tables_under_scales_and_searched_scales(
    case: tuple[np.ndarray, str], rounding: str, offset: int, policy: str | None
) -> None:
    agree(*case, rounding, random=random_of(rounding, offset), overflow=policy)


@settings(max_examples=200, deadline=None)
@given(st.data(), cases((*SCALES, *TABLES_AND_SEARCHES)), st.sampled_from(ROUNDINGS))
def test_scales_that_are_given(data: Any, case: tuple[np.ndarray, str], rounding: str) -> None:
    """One for each block or one for all, in each dtype."""
    x, name = case
    format = q.parse(name)
    assert isinstance(format, q.Block)
    if format.second is not None:
        format = format.replace(second=None, rule=None)
    if x.dtype == np.float64 and format.in_float32:
        x = x.astype(np.float32)
    shape = blocks_shape(x.shape, format)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    scales: Any = rng.lognormal(-2, 3, shape if data.draw(st.booleans()) else ())
    if format.powers:
        scales = 2.0 ** np.round(np.log2(scales))
    scales = scales.astype(data.draw(st.sampled_from(["float16", "float32", "float64"])))
    scales = np.maximum(scales, np.finfo(np.float16).tiny)
    options = {}
    if format.rule == "minmax":
        options["zero_points"] = rng.integers(0, 16, shape)
    random = random_of(rounding, 3)
    agree(x, str(format), rounding, random=random, scales=scales, **options)


@pytest.mark.parametrize("rounding", ["nearest_even", "toward_negative"])
@pytest.mark.parametrize("size", [1, 2, 32])
def test_negative_numbers_where_the_range_ends_beyond_the_dtypes(size: int, rounding: str) -> None:
    """Elements without a sign, which have no range below, at scales that lift their greatest value
    out of float32.
    """
    x = np.tile(np.float32([-3e-30, 2e30, -1.0, 3e38]), 16).reshape(1, 64)
    for element in ("e8m0fnu", "fixed<4,0,unsigned,overflow=nan>"):
        format = f"block<{element},axis=-1,size={size},scale=exponent<12>>"
        for scale in (1.0, 2.0**20, 2.0**125):
            agree(x, format, rounding, scales=scale)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (4, 0, 2)])
def test_blocks_of_nothing(shape: tuple[int, ...]) -> None:
    x = np.empty(shape, np.float32)
    for format in ("int<8,axis=-1,size=3>", "mxfp4", "nvfp4"):
        assert q.quantize(x, format).shape == shape


@pytest.mark.parametrize(
    "format",
    [
        "int<8,axis=1>",
        "block<e2m1fn,axis=0,size=16,scale=e4m3fn>",
        "block<nf4,axis=1,scale=float<8,23>>",
        "block<e2m1fn,axis=1,scale=e4m3fn,rule=mse>",
        "block<e2m1fn,axis=1,scale=e8m0fnu,rule=mse>",
        "block<fixed<8,0,symmetric>,scale=fp16,rule=ggml>",
    ],
)
@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
def test_scales_beside_one_another_in_two_passes(format: str, rounding: str) -> None:
    """Blocks of more elements than a task holds, a column each."""
    x = np.random.default_rng(0).standard_normal((70_000, 3)).astype(np.float32)
    x[5], x[7, 1] = np.inf, np.nan
    random = q.RandomBits(4) if rounding == "stochastic" else None
    got = q.quantize(x, format, rounding, random=random)
    with kernels.disabled():
        assert (bits(got) == bits(q.quantize(x, format, rounding, random=random))).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", ["bf16", "e8m0fnu", "e4m3fn,second=float<8,23>"])
def test_blocks_of_whole_vectors(scale: str, dtype: str) -> None:
    """Many of them side by side, the last one shorter; infinities and NaN in none, some and all."""
    if dtype == "float64" and "second" in scale:
        return
    rng = np.random.default_rng(3)
    for shape, axis, size in (
        ((3, 1030), -1, 16),
        ((2, 1060), -1, 32),
        ((2, 1100), -1, 64),
        ((37, 33, 9), 1, 16),
        ((5, 70, 3), 1, 32),
        ((70, 3), 0, 32),
    ):
        x = (rng.standard_normal(shape) * 2.0 ** rng.integers(-3, 4, shape)).astype(
            array(dtype).dtype
        )
        spoiled = x.copy()
        spoiled.reshape(-1)[[7, 200]] = np.inf, np.nan
        for numbers in (x, spoiled, np.full_like(x, np.inf)):
            for rounding in ("nearest_even", "stochastic", "to_odd"):
                random = q.RandomBits(5) if rounding == "stochastic" else None
                format = f"block<e3m2fn,axis={axis},size={size},scale={scale}>"
                got = q.quantize(numbers, format, rounding, random=random)
                with kernels.disabled():
                    expected = q.quantize(numbers, format, rounding, random=random)
                assert (bits(got) == bits(expected)).all(), (shape, rounding)
