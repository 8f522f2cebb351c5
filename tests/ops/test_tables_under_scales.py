"""Tables as elements of blocks, and scales of another top (clause BLK-15)."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import qemu_swalp as q
from tests.helpers.backends import Backend, same_bits

NF4 = "block<nf4,axis=-1,size=64,scale=float<8,23>>"
FORMATS = [
    NF4,
    "block<nf4,axis=-1,size=3,scale=e8m0fnu>",
    "block<nf4,axis=-1,size=4,scale=e4m3fn,second=float<8,23>>",
    "block<posit8,axis=-1,size=4,top=1>",
    "block<takum_linear4,axis=0,scale=bf16,top=1>",
    "block<logarithmic<6,2>,axis=-1,size=4,scale=float<8,23>>",
    "block<pot4,axis=-1,size=4,scale=e8m0fnu,rule=rceil>",
    "block<binary,axis=0,scale=float<8,23>>",
    "block<codebook<-3,0.1,0.5,40>,axis=-1,size=4,scale=fp16>",
]
every = pytest.mark.parametrize("name", FORMATS)
numbers = st.floats(-100, 100, width=32) | st.just(0.0)
arrays = st.lists(numbers, min_size=12, max_size=12).map(
    lambda v: np.array(v, np.float32).reshape(2, 6)
)


@settings(max_examples=40)
@given(st.lists(st.floats(-1, 1, width=32), min_size=64, max_size=64))
def test_nf4_is_the_nearest_of_the_scaled_values(values: list[float]) -> None:
    """The definition of QLoRA's NF4: x/amax goes to the nearest entry; in rational arithmetic."""
    x = np.float32(values)
    amax, entries = Fraction(float(np.abs(x).max())), q.parse("nf4").values()  # type: ignore[attr-defined]
    middles = [(Fraction(a) + Fraction(b)) / 2 for a, b in pairwise(entries)]
    for value, result in zip(values, q.quantize(x, NF4).tolist(), strict=True):
        if amax and Fraction(value) / amax not in middles:
            rank = sum(Fraction(value) / amax > middle for middle in middles)
            assert result == np.float32(entries[rank] * float(amax))


def test_the_worth_of_the_scale() -> None:
    """Weights of deviation 0.02: 21 dB under a scale for 64 of them, 0.7 dB without."""
    x = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32) * np.float32(0.02)
    assert 20 < q.analyze(x, NF4).sqnr_db < 22
    assert q.analyze(x, "nf4").sqnr_db < 1
    twice = q.analyze(x, "block<nf4,axis=-1,size=64,scale=e4m3fn,second=float<8,23>>").sqnr_db
    assert 20 < twice < q.analyze(x, NF4).sqnr_db
    assert q.packed_bytes(x.shape, NF4) == x.size // 2 + 4 * x.size // 64
    assert q.analyze(x, "block<posit8,axis=-1,size=32,scale=e8m0fnu,top=1>").sqnr_db > 30


@every
@settings(max_examples=10)
@given(arrays, st.integers(0, 2**32))
def test_codes_come_back(name: str, x: np.ndarray, seed: int) -> None:
    """COD-7, in float32 and bfloat16, stochastic too."""
    for mode in ("nearest_even", "toward_zero", "stochastic_b<5>"):
        random = q.RandomBits(seed)
        values = q.quantize(x, name, mode, random=random)
        codes = q.encode(x, name, mode, random=random)
        assert same_bits(q.decode(codes, name), values).all()
        assert q.packed_bytes(x.shape, name) > 0


@every
@settings(max_examples=10)
@given(arrays)
def test_directed_modes_bracket(name: str, x: np.ndarray) -> None:
    """RND-4: x/s lies between its neighbours; the product s·r is rounded once more."""
    down, near, up = (
        q.quantize(x, name, mode) for mode in ("toward_negative", "nearest_even", "toward_positive")
    )
    assert ((down <= near) & (near <= up)).all()


def test_stochastic_rounding_is_unbiased() -> None:
    """The mean of many roundings is x."""
    x = np.full((1, 4096), 0.3, np.float32)
    x[0, 0] = 1.0
    r = q.quantize(
        np.repeat(x, 64, 0), "block<nf4,axis=0,scale=float<8,23>>", "stochastic",
        random=q.RandomBits(3),
    )  # fmt: skip
    assert abs(float(r[:, 1:].mean(dtype=np.float64)) - 0.3) < 2e-4


def test_float16_and_bfloat16_hold_scaled_nf4() -> None:
    """SRC-3: the source dtype holds the products' roundings, not the 24 bits of the entries."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = np.random.default_rng(1).standard_normal((2, 64)).astype(np.float32)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        narrow = x.astype(dtype)
        wide = q.quantize(narrow.astype(np.float32), NF4)
        assert same_bits(q.quantize(narrow, NF4), wide.astype(dtype)).all()


def test_every_library(backend: Backend) -> None:
    """The same bits for codes of specials in blocks, whose NaN is told by the scale or in place."""
    x = np.float32([[1.0, -0.3, math.nan, 0.1], [0.5, 0.02, -math.inf, 2.0]])
    for name in (NF4, "block<posit8,axis=-1,size=2,scale=e8m0fnu,top=1>"):
        for policy in (None, "saturate"):
            expected = q.quantize(x, name, overflow=policy)
            assert same_bits(backend.quantize(x, name, overflow=policy), expected).all()


def test_floats_beyond_float32_under_scales() -> None:
    """Their greatest value is no number of float32, which nothing here is computed in."""
    x = np.float64([1.0, 2.0**-30, 3.0**0.5])
    with np.errstate(all="raise"):
        r = q.quantize(x, "block<float<11,20>,axis=-1,size=3,scale=e8m0fnu>")
    assert (r == q.quantize(x, "float<11,20>")).all()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: q.Block("nf4", rule="even", scale="e8m0fnu"), ValueError, "rule='even' rounds"),
        (lambda: q.Block("nf4", top=0), ValueError, "top must be a positive normal number"),
        (lambda: q.Block("nf4", top="1"), TypeError, "top must be a number, got '1'"),
        (
            lambda: q.Block("nf4", top=0.1),
            ValueError,
            "top must be a positive normal number of float32",
        ),
        (lambda: q.parse("int<8,zero_point>").replace(top=8), ValueError, "leave top= out"),
        (lambda: q.Block("mxfp4"), TypeError, "element must be a format of single numbers"),
        (
            lambda: q.parse("block<takum8,scale=float<8,23>>"),
            ValueError,
            r"no scale in float32 brings numbers to 7\.91026e\+51, .* such as top=1",
        ),
        (
            lambda: q.quantize(np.ones(3, np.float32), "block<takum8,top=1>"),
            TypeError,
            r"lacks precision \(53 bits, it has 24\); convert it to float64",
        ),
        (
            lambda: q.quantize(np.ones(3, np.float32), "block<posit<16,6>,top=1>"),
            TypeError,
            "lacks",
        ),
        (lambda: q.encode(np.ones(3, np.float32), "block<nf4>"), ValueError, "from values alone"),
    ],
)
def test_bad_input(call, error, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=words):
        call()
