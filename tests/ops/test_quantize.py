"""`quantize`, `encode` and `decode` as functions of arrays: layout, dtypes, `out`, errors (clauses
SRC, COD).
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import qemu_swalp as q

X = np.random.default_rng(0).standard_normal((6, 10)).astype(np.float32)


@pytest.mark.parametrize("format", ["e4m3fn", "bfp<8,axis=0>", "codebook<-1,0,1>"])
def test_any_strides_and_no_change_of_the_input(format: str) -> None:
    wide = np.repeat(X, 2, axis=1)
    view = wide[:, ::2]
    view.flags.writeable = False
    before = view.copy()
    assert (q.quantize(view, format) == q.quantize(X, format)).all()
    assert (q.quantize(X.T, format.replace("axis=0", "axis=1")) == q.quantize(X, format).T).all()
    assert (q.quantize(X[::-1], format) == q.quantize(X, format)[::-1]).all()
    assert (view == before).all()


@pytest.mark.parametrize(
    "format", ["e4m3fn", "bfp8", "bfp<8,axis=0>", "bfp<8,axis=-1,size=4>", "codebook<-1,0,1>"]
)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (1, 1, 1)])
def test_small_shapes(format: str, shape: tuple[int, ...]) -> None:
    x = np.full(shape, 0.3, np.float32)
    r = q.quantize(x, format, "stochastic", random=q.RandomBits(1))
    assert r.shape == shape
    assert r.dtype == np.float32
    codes = q.encode(r, format)
    assert (codes.codes if isinstance(codes, tuple) else codes).shape == shape
    assert (q.decode(codes, format) == r).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ml_dtypes.bfloat16])
def test_result_dtype_is_the_source_dtype(dtype: object) -> None:
    x = X.astype(dtype)  # type: ignore[call-overload]
    for format in ("e2m3fn", "bfp8", "codebook<-1,0,1>"):
        r = q.quantize(x, format)
        assert r.dtype == x.dtype
        assert (r.astype(np.float64) == q.quantize(x.astype(np.float64), format)).all()


def test_out_may_be_the_input() -> None:
    x = X.copy()
    assert q.quantize(x, "bfp8", out=x) is x
    assert (x == q.quantize(X, "bfp8")).all()
    big = np.tile(X, (400, 1))
    expected = q.quantize(big, "e4m3fn", "stochastic", random=q.RandomBits(2))
    q.quantize(big, "e4m3fn", "stochastic", random=q.RandomBits(2), out=big)
    assert (big == expected).all()


def test_lists_and_numbers_are_float64() -> None:
    assert q.quantize(0.3, "e4m3fn").dtype == np.float64
    assert q.quantize([0.3, 1], "e4m3fn").tolist() == [0.3125, 1.0]
    assert q.quantize(np.float64(0.3), "e4m3fn").dtype == np.float64


class NotAnArray:
    pass


class NotQuantizable(q.Format):
    bits = 3
    idempotent = True


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: q.quantize(NotAnArray(), "e4m3fn"),
            TypeError,
            "expected an array of numpy, cupy, torch, tensorflow, jax, got .*NotAnArray",
        ),
        (lambda: q.quantize("0.3", "e4m3fn"), TypeError, "x must be an array, a number"),
        (
            lambda: q.quantize(np.arange(3), "e4m3fn"),
            TypeError,
            "expected an array of float16, bfloat16, float32, float64, got dtype int64",
        ),
        (
            lambda: q.quantize(X.astype("float16"), "bf16"),
            TypeError,
            (
                "an array of float16 cannot represent the values of bf16: it lacks small values .*;"
                " convert it to bfloat16"
            ),
        ),
        (
            lambda: q.quantize(X.astype("float16"), "fixed<14,2>"),
            TypeError,
            "lacks precision \\(13 bits, it has 11\\); convert it to float32",
        ),
        (
            lambda: q.quantize(X.astype("float16"), "fixed<8,-12>"),
            TypeError,
            "lacks range \\(up to 524288, it has 65504\\)",
        ),
        (lambda: q.quantize(X, "fixed<32,0>"), TypeError, "convert it to float64"),
        (
            lambda: q.quantize(X.astype(ml_dtypes.bfloat16), "bfp<16>"),
            TypeError,
            "bfloat16 cannot represent the values of bfp16",
        ),
        (
            lambda: q.quantize(X, "codebook<0,0.1,dtype=float64>"),
            TypeError,
            "convert it to float64",
        ),
        (
            lambda: q.quantize(X, "e4m3fn", "stochastic"),
            ValueError,
            "needs random=: RandomBits\\(seed, stream, step\\)",
        ),
        (
            lambda: q.quantize(X, "e4m3fn", "stochastic", random=np.zeros(3, np.uint32)),
            ValueError,
            "of shape \\(6, 10\\)",
        ),
        (
            lambda: q.quantize(X, "e4m3fn", "stochastic", random=np.zeros((6, 10))),
            ValueError,
            r"or a uint32 or int32 numpy array of shape \(6, 10\), got float64 of shape \(6, 10\)",
        ),
        (
            lambda: q.quantize(X, "e4m3fn", overflow="infinity"),
            ValueError,
            "needs a format with infinities",
        ),
        (lambda: q.quantize(X, "fixed<8,6>", overflow="nan"), ValueError, "a format with NaN"),
        (lambda: q.quantize(X, "bfp8", overflow="infinity"), ValueError, "with infinities"),
        (
            lambda: q.quantize(X, "bfp8", overflow="wrap"),
            ValueError,
            "overflow must be one of saturate, propagate, infinity, nan, got 'wrap'",
        ),
        (
            lambda: q.quantize(X, "bfp<8,axis=2>"),
            ValueError,
            "names axis 2, which an array of 2 dimensions does not have",
        ),
        (
            lambda: q.quantize(X, "bfp<8,axis=(0,-2)>"),
            ValueError,
            "names axis 0 of an array of 2 dimensions twice",
        ),
        (
            lambda: q.quantize(X, "e4m3fn", out=X[:3]),
            ValueError,
            "out must have x's shape \\(6, 10\\)",
        ),
        (lambda: q.quantize(X, "e4m3fn", out=[1.0]), TypeError, "out must be a numpy array like x"),
        (
            lambda: q.quantize(X, NotQuantizable()),
            TypeError,
            "NotQuantizable must derive from BinadeFormat, TableFormat or Block",
        ),
        (
            lambda: q.encode([0.3], "e4m3fn"),
            ValueError,
            "encode needs values of e4m3fn, and",
        ),
        (lambda: q.encode([float("nan")], "fixed<8,6>"), ValueError, "(?i)has no code for nan"),
        (
            lambda: q.decode(np.zeros(3), "e4m3fn"),
            TypeError,
            "codes must be an integer array, got dtype float64",
        ),
        (lambda: q.decode(np.zeros(3, np.uint8), "bfp8"), TypeError, "must be BlockCodes"),
        (
            lambda: q.decode(
                q.BlockCodes(np.zeros((2, 3), np.uint8), np.zeros(2, np.int8)), "bfp<8,axis=0>"
            ),
            ValueError,
            r"have scales of shape \(2, 1\), got \(2,\)",
        ),
        (
            lambda: q.decode(np.uint8([3]), "codebook<-1,0,1>"),
            ValueError,
            "codes of ternary run from 0 to 2",
        ),
    ],
)
def test_errors(call, error, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=words):
        call()


def test_a_failed_call_changes_nothing() -> None:
    x = X.copy()
    with pytest.raises(ValueError, match="random"):
        q.quantize(x, "e4m3fn", "stochastic", out=x)
    assert (x == X).all()


@pytest.mark.parametrize(
    "format",
    [
        "e4m3fn",
        "e5m2",
        "e4m3fnuz",
        "e2m1fn",
        "e8m0fnu",
        "float<4,3,subnormals=false>",
        "fixed<8,6>",
        "fixed<5,2,unsigned>",
        "codebook<3,-1,0.5>",
    ],
)
def test_every_code_comes_back(format: str) -> None:
    """COD-1: encode(decode(c)) = c for every code that stands for something but a second NaN."""
    f = q.parse(format)
    codes = np.arange(len(f.entries) if isinstance(f, q.Codebook) else 2**f.bits, dtype=np.uint8)
    values = q.decode(codes, f)
    numbers = ~np.isnan(values)
    flushed = (
        (values == 0) & (codes & 0x7F != 0)
        if "subnormals" in format
        else np.zeros(len(codes), bool)
    )
    assert (q.encode(values[numbers & ~flushed], f) == codes[numbers & ~flushed]).all()
    assert sorted(set(values[np.isfinite(values)].tolist())) == f.values()
    if f.has_nan:
        assert np.isnan(q.decode(q.encode(np.float32([np.nan]), f), f)).all()


def test_codes_of_wide_formats() -> None:
    x = np.random.default_rng(1).standard_normal(1000) * 2.0 ** np.arange(-30, 30).repeat(17)[:1000]
    for format, view in (("fp16", np.float16), ("bf16", ml_dtypes.bfloat16)):
        v = q.quantize(x.astype(np.float32), format)
        assert (q.encode(v, format) == v.astype(view).view(np.uint16)).all()
    v = q.quantize(x, "fixed<32,8>")
    assert (q.encode(v, "fixed<32,8>").view(np.int32) == (v * 256).astype(np.int64)).all()
    v32 = q.quantize(x.astype(np.float32), "float<8,23>")
    assert (q.encode(v32, "float<8,23>") == x.astype(np.float32).view(np.uint32)).all()


def test_negative_zero_has_no_code_of_its_own() -> None:
    """COD-1: in e4m3fnuz the code of -0 is NaN's."""
    assert q.encode(np.float32([-0.0, 0.0]), "e4m3fnuz").tolist() == [0, 0]
    assert q.encode(np.float32([-0.0, 0.0]), "e4m3fn").tolist() == [0x80, 0]


def test_results_that_the_dtype_does_not_hold_are_cut_toward_zero() -> None:
    """SRC-2: -65504 rounds to -2^16 in the paper's range; next to an infinity that
    saturates, a block of 2^-24 has max 127·2^-30.
    """
    assert q.quantize(np.float16([-65504, 3]), "bfp<8,range=twos>").tolist() == [-65504, 0]
    lowest = np.finfo(np.float32).min
    assert q.quantize(np.array([lowest]), "bfp<8,range=twos>")[0] == lowest
    x = np.float16([2**-24, np.inf])
    assert q.quantize(x, "bfp8", overflow="saturate").tolist() == [2.0**-24, 2.0**-24]
    assert q.quantize(x, "bfp8").tolist() == [2.0**-24, np.inf]


def test_codes_in_the_range_of_the_paper() -> None:
    """COD-4: BLK-3 would take 7 from [-128, 127, 3, 5], whose odd numbers need 6."""
    for x, exponent in (([-128, 127, 3, 5], 6), ([-128, 4, 2, 0], 7)):
        codes = q.encode(np.float32(x), "bfp<8,range=twos>")
        assert codes.scales.tolist() == [exponent]
        assert q.decode(codes, "bfp<8,range=twos>").tolist() == x


def test_exponents_have_the_axes_of_the_source() -> None:
    """COD-4."""
    for shape, format, expected in [
        ((), "bfp8", ()),
        ((0, 3), "bfp8", (1, 1)),
        ((0, 3), "bfp<8,axis=1>", (1, 3)),
        ((2, 0), "bfp<8,axis=1,size=4>", (2, 0)),
        ((2, 5), "bfp<8,axis=1,size=4>", (2, 2)),
    ]:
        assert q.encode(np.zeros(shape, np.float32), format).scales.shape == expected


def test_block_codes() -> None:
    """COD-4, BLK-3."""
    assert q.encode(np.zeros(3, np.float32), "bfp<8,scale_bits=16>").scales.tolist() == [-32768]
    x = np.float32([[1, 0.5, -100], [0, 0, 0]])
    codes, exponents, *_ = q.encode(q.quantize(x, "bfp<8,axis=0>"), "bfp<8,axis=0>")
    assert exponents.tolist() == [[6], [-128]]
    assert exponents.dtype == np.int8
    assert codes.view(np.int8).tolist() == [[1, 0, -100], [0, 0, 0]]
    assert q.encode(q.quantize(x, "bfp<8,axis=1,size=2>"), "bfp<8,axis=1,size=2>").scales.shape == (
        2,
        2,
    )
