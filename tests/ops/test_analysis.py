"""The figures of what rounding does: counts by hand, errors by NumPy, the range by a format that
goes on beyond it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import qemu_swalp as q
from qemu_swalp import Analysis, UpdateAnalysis, analyze, analyze_update
from qemu_swalp.rounding import DETERMINISTIC
from tests.helpers.backends import DTYPES, Backend

INF, NAN = math.inf, math.nan


def sample(shape: int | tuple[int, ...] = 4000, seed: int = 0) -> np.ndarray:
    """Of many sizes, most of them within a few binades of one."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * 2.0 ** rng.normal(0, 4, shape)).astype(np.float32)


def counts(found: Analysis, *names: str) -> list[int]:
    return [getattr(found, name) for name in names]


@pytest.mark.parametrize(
    "name", ["e4m3fn", "bfp8", "mxfp4", "nvfp4", "int<4,zero_point,axis=-1,size=16>", "posit8"]
)
@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
def test_errors_are_those_of_quantize(name: str, rounding: str) -> None:
    x, bits = sample((40, 100)), q.RandomBits(3, 1)
    r = q.quantize(x, name, rounding, random=bits).astype(np.float64)
    found = analyze(x, name, rounding, random=bits)
    error, magnitude = r - x, np.abs(x.astype(np.float64))
    assert found.sqnr_db == pytest.approx(
        10 * np.log10((magnitude**2).sum() / (error**2).sum()), rel=1e-12
    )
    assert found.mean_error == pytest.approx(error.mean(), abs=1e-12 * np.abs(error).mean())
    assert found.max_abs_error == np.abs(error).max()
    assert found.max_rel_error == (np.abs(error) / magnitude).max()
    assert counts(found, "count", "compared") == [4000, 4000]
    assert found.unchanged == (r == x).sum()
    if "zero_point" not in name:  # there an end of the range may be 0
        assert found.flushed == ((r == 0) & (x != 0)).sum()
    assert found.share_flushed == found.flushed / 4000
    assert found.share_unchanged == found.unchanged / 4000
    assert found.bits_per_element == 8 * q.packed_bytes(x.shape, name) / 4000


BEYOND = {
    "e4m3fn": "float<8,3>",
    "e2m1fn": "float<8,1>",
    "e5m2": "float<8,2>",
    "fixed<8,6>": "fixed<24,6>",
    "fixed<6,-1,unsigned>": "fixed<24,-1>",
    "p3109_k8p4se": "float<8,3>",
}
"""Format → one that has its spacing at the ends of its range and goes on."""


@pytest.mark.parametrize("mode", DETERMINISTIC)
@pytest.mark.parametrize("name", BEYOND)
def test_saturated_is_what_rounds_beyond_the_range(name: str, mode: str) -> None:
    """RND-7: a number above max that rounds to max is within the range; in every mode, the inward
    ones too.
    """
    f: Any = q.parse(name)
    ends = np.array(
        [v * (1 + k / 64) for v in (f.max, f.min, -f.max) for k in range(-8, 9)], np.float32
    )
    x = np.concatenate([sample() * np.float32(f.max / 50), ends])
    wide = q.quantize(x, BEYOND[name], mode)
    found = analyze(x, f, mode, overflow="saturate")
    assert found.saturated == ((wide > f.max) | (wide < f.min)).sum() > 0


@pytest.mark.parametrize(
    "name",
    [
        "bfp<6,axis=-1,size=8>",
        "mxfp6_e2m3",
        "block<e4m3fn,axis=0,rule=ceil>",
        "block<e2m1fn,axis=-1,size=16,scale=e4m3fn>",
        "int<4,axis=0>",
    ],
)
def test_saturated_under_scales(name: str) -> None:
    """The range of a block is its element format's times its scale."""
    x, f = sample((64, 32)), q.parse(name)
    assert isinstance(f, q.Block)
    codes = q.encode(x, f, "nearest_even")
    ones = q.encode(np.ones(1, np.float64), f.element).repeat(x.size).reshape(x.shape)
    unit = q.decode(codes._replace(codes=ones.astype(codes.codes.dtype)), f, "float64") / q.decode(
        ones, f.element
    )
    wide = (
        "fixed<24,4>"
        if isinstance(f.element, q.Fixed) and f.element.fraction == 4
        else ("fixed<24,0>" if isinstance(f.element, q.Fixed) else f"float<8,{f.element.mantissa}>")
    )  # type: ignore[attr-defined]
    reached = np.abs(q.quantize(x / unit, wide))
    assert analyze(x, f).saturated == (reached > f.element.max).sum()
    assert name != "mxfp6_e2m3" or analyze(x, f).saturated > 0


def test_saturated_with_a_zero_point() -> None:
    """BLK-10: 0.5/s and -2.5/s with s = 1 reach from 0 to 3 once z = 2 is taken off; ±infinity are
    beyond it.
    """
    x = np.float32([0.5, -2.5])
    assert q.encode(x, "int<2,zero_point>", "nearest_even").zero_points.tolist() == [2]
    assert analyze(x, "int<2,zero_point>", "toward_zero").saturated == 0
    assert analyze(x, "int<2,zero_point>", "nearest_away").saturated == 1
    with_infinities = np.float32([0.5, -2.5, INF, -INF])
    assert analyze(with_infinities, "int<2,zero_point>", overflow="saturate").saturated == 2
    assert analyze(with_infinities, "int<2,zero_point>").saturated == 0


SPECIAL = np.float32([0.0, -0.0, 1.0, 1e-9, -1e-9, 1e9, -1e9, INF, -INF, NAN])


@pytest.mark.parametrize(
    ("name", "overflow", "expected"),
    [  # saturated, flushed, unchanged, infinite, nan, to_infinity, to_nan
        ("e5m2", None, [0, 2, 6, 2, 1, 2, 0]),
        ("e5m2", "saturate", [4, 2, 4, 2, 1, 0, 0]),
        ("e5m2", "propagate", [2, 2, 6, 2, 1, 0, 0]),
        ("e5m2", "nan", [0, 2, 4, 2, 1, 0, 2]),
        ("e4m3fn", None, [4, 2, 4, 2, 1, 0, 0]),
        ("e4m3fn", "nan", [0, 2, 4, 2, 1, 0, 2]),
        ("fixed<8,4,unsigned>", None, [4, 2, 4, 2, 1, 0, 0]),
        ("posit8", "saturate", [4, 0, 4, 2, 1, 0, 0]),
        ("ternary", None, [4, 2, 4, 2, 1, 0, 0]),
        ("binary", None, [4, 0, 2, 2, 1, 0, 0]),
        ("e8m0fnu", None, [0, 0, 2, 2, 1, 0, 4]),
        ("e8m0fnu", "saturate", [6, 0, 2, 2, 1, 0, 0]),
        ("bfp8", None, [0, 3, 5, 2, 1, 0, 0]),
        ("bfp8", "saturate", [2, 3, 3, 2, 1, 0, 0]),
        ("mxfp4", None, [0, 0, 1, 2, 1, 0, 7]),
        ("block<e4m3fn,scale=e8m0fnu>", None, [0, 0, 1, 2, 1, 0, 7]),
        ("block<e4m3fn>", "saturate", [4, 3, 3, 2, 1, 0, 0]),
    ],
)
def test_special_elements(name: str, overflow: Any, expected: list[int]) -> None:
    """RND-8, RND-9, FMT-9, BLK-4: each element counts where the docstrings say."""
    found = analyze(SPECIAL, name, overflow=overflow)
    assert (
        counts(
            found, "saturated", "flushed", "unchanged", "infinite", "nan", "to_infinity", "to_nan"
        )
        == expected
    )
    r = q.quantize(SPECIAL, name, overflow=overflow)
    assert found.compared == (np.isfinite(SPECIAL) & np.isfinite(r)).sum()
    assert math.isfinite(found.noise)


def test_figures_of_several_arrays_add_up() -> None:
    x = np.concatenate([sample(5000), SPECIAL, sample(70_000, 1)])
    parts = sum((analyze(part, "e4m3fn") for part in np.array_split(x, 7)), Analysis())
    whole = analyze(x, "e4m3fn")
    for field in dataclasses.fields(Analysis):
        assert getattr(parts, field.name) == pytest.approx(getattr(whole, field.name), rel=1e-9), (
            field.name
        )
    assert parts.max_abs_error == whole.max_abs_error
    assert UpdateAnalysis(4, 1) + UpdateAnalysis(1, 1) == UpdateAnalysis(5, 2)
    with pytest.raises(TypeError):
        whole + 1  # type: ignore[operator]
    with pytest.raises(dataclasses.FrozenInstanceError):
        whole.count = 0  # type: ignore[misc]


def test_where_there_is_nothing_to_divide_by() -> None:
    nothing = analyze(np.zeros((0, 3), np.float32), "mxfp4")
    assert nothing == Analysis()
    for value in (
        nothing.sqnr_db,
        nothing.mean_error,
        nothing.share_saturated,
        nothing.bits_per_element,
    ):
        assert math.isnan(value)
    assert math.isnan(analyze([0.0], "e4m3fn").sqnr_db)
    assert analyze([1.0, 2.0], "e4m3fn").sqnr_db == INF
    assert analyze([0.0], "binary").sqnr_db == -INF
    assert analyze(np.float32(0.3), "e4m3fn").count == 1
    assert math.isnan(UpdateAnalysis().zero_update_rate)


@pytest.mark.parametrize(("turn", "name"), enumerate(["e4m3fn", "bfp<8,axis=0>", "int8", "nf4"]))
def test_every_library_and_dtype_gives_the_same_figures(
    backend: Backend, turn: int, name: str
) -> None:
    if backend.name in ("tensorflow-function", "tensorflow-xla", "jax-jit"):
        pytest.skip("figures are taken outside of graphs")
    of_turn = DTYPES[turn : turn + 1]  # JAX compiles every operation for each
    for dtype in of_turn if backend.name == "jax" else [d for d in DTYPES if d in backend.dtypes]:
        with np.errstate(over="ignore"):
            x = np.concatenate([sample(300), SPECIAL]).reshape(-1, 5)
            x = x.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        try:
            expected = analyze(x, name, "stochastic", random=q.RandomBits(5))
        except TypeError:  # the dtype holds too few bits
            continue
        with backend.context(dtype):
            given = backend.array(x)
            assert analyze(given, name, "stochastic", random=q.RandomBits(5)) == expected
            assert backend.numpy(given).tobytes() == x.tobytes()
            assert analyze_update(given, given, name).updates == analyze_update(x, x, name).updates


def test_lost_updates() -> None:
    """Half a step to nearest, a whole one toward zero; stochastically, the rest of the rate."""
    w = np.full(20_000, 1.0, np.float32)
    for u, mode, rate in (
        (0.03, "nearest_even", 1.0),
        (0.07, "nearest_even", 0.0),
        (0.12, "toward_zero", 1.0),
        (-0.01, "toward_zero", 0.0),
        (0.125 / 4, "stochastic", 0.75),
    ):
        found = analyze_update(w, w * np.float32(u), "e4m3fn", mode, random=q.RandomBits(1))
        assert found.updates == w.size
        assert found.zero_update_rate == pytest.approx(rate, abs=0.01)
    found = analyze_update(
        np.float32([1, 1, 1, NAN, 448]), np.float32([0, NAN, 1e-30, 1, 9]), "e4m3fn"
    )
    assert (found.updates, found.lost) == (3, 2)


def test_what_cannot_be_analyzed() -> None:
    import jax
    import tensorflow as tf

    with pytest.raises(TypeError, match="x must hold values that can be copied to the host"):
        jax.jit(lambda x: analyze(x, "e4m3fn").count)(np.ones(3, np.float32))
    with pytest.raises(TypeError, match="outside of any traced graph"):
        tf.function(lambda x: analyze(x, "e4m3fn").count, autograph=False)(tf.ones(3))
    x = np.ones(3, np.float32)
    for call, error, words in (
        (lambda: analyze(np.arange(3), "e4m3fn"), TypeError, "expected an array of float16"),
        (lambda: analyze(x, "e4m3f"), ValueError, "did you mean 'e4m3fn'"),
        (lambda: analyze(x, "e4m3fn", "stochastic"), ValueError, "needs random="),
        (
            lambda: analyze(x, "e4m3fn", overflow="infinity"),
            ValueError,
            "needs a format with infinities",
        ),
        (lambda: analyze(x, "e4m3fn", overflow="mark"), ValueError, "overflow must be one of"),
        (lambda: analyze_update(x, x.tolist(), "e4m3fn"), ValueError, None),
        (
            lambda: analyze_update(x, x[:2], "e4m3fn"),
            ValueError,
            r"shape \(3,\) and dtype float32 of weight, got \(2",
        ),
        (
            lambda: analyze_update(x, x.astype(np.float64), "e4m3fn"),
            ValueError,
            r"got \(3,\) and float64",
        ),
        (
            lambda: analyze_update(x, tf.ones(3), "e4m3fn"),
            TypeError,
            "update must be a numpy array like weight",
        ),
    ):
        if words is None:
            assert call() == UpdateAnalysis(3, 0)
            continue
        with pytest.raises(error, match=words):
            call()


def test_under_scales_that_are_given() -> None:
    figures = analyze([0.3, 2.0, -500.0], "int<8>", scales=0.5)
    assert (figures.saturated, figures.max_abs_error) == (1, 436.5)
    affine = analyze([0.3, 2.0], "int<8,zero_point>", scales=0.5, zero_points=8)
    assert affine.saturated == 0
