"""Scales from batches: `calibrate`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import qemu_swalp as q
from qemu_swalp.ops.calibration_search import BINS, Histograms
from tests.helpers.backends import Backend, same_bits

FORMATS = [
    "int<8>",
    "int<4,axis=0>",
    "int<4,zero_point,axis=0>",
    "block<e4m3fn,axis=-1,size=4,scale=float<8,23>>",
    "block<e4m3fn,axis=(0,1),size=(2,3),scale=bf16>",
    "mxfp4",
    "bfp<8,axis=1>",
    "block<nf4,axis=0,scale=float<8,23>>",
]
batches = np.random.default_rng(0).standard_normal((3, 4, 10)).astype(np.float32)


def error(format: str, calibration: q.Calibration, x: np.ndarray) -> float:
    r = q.quantize(x, format, **calibration._asdict())
    return float(((r - x).astype(np.float64) ** 2).sum())


@pytest.mark.parametrize("name", FORMATS)
def test_amax_is_what_the_rule_computes_of_all_batches(name: str) -> None:
    """One array: its own scales. Several: those of the block-wise extremes."""
    once = q.calibrate([batches[0]], name)
    assert same_bits(
        q.quantize(batches[0], name, **once._asdict()), q.quantize(batches[0], name)
    ).all()
    several = q.calibrate(batches, name)
    high, low = batches.max(0), batches.min(0)
    both = [q.calibrate([high, low], name), several]
    assert (both[0].scales == both[1].scales).all()
    assert several.scales.dtype == np.float32
    assert (several.scales >= once.scales).all()


@settings(max_examples=20)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40), st.integers(1, 4))
def test_histograms_count_everything(values: list[float], parts: int) -> None:
    """However the numbers come in parts, and however the range grows."""
    histograms = Histograms(1)
    for part in np.array_split(np.float64(values), parts):
        histograms.add(part, np.zeros(len(part), np.int64))
    assert histograms.counts.sum() == len(values)
    if any(values):
        width = np.ldexp(1.0, histograms.exponents[0]) / BINS
        spread = np.repeat(histograms.centers[0], histograms.counts[0])
        assert (np.abs(spread - np.sort(np.float64(values))) <= width).all()
        assert histograms.quantile(1.0)[0] >= max(map(abs, values))


@pytest.mark.parametrize("name", FORMATS)
def test_mse_is_no_worse(name: str) -> None:
    """Against amax, on the data that was observed, up to the width of a bin."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((4, 4000)).astype(np.float32)
    x[:, :3] *= 20
    if name not in ("int<8>", "int<4,axis=0>", "int<4,zero_point,axis=0>"):
        x = x[:, :12]
    amax, mse = (q.calibrate([x], name, method) for method in ("amax", "mse"))
    assert error(name, mse, x) <= error(name, amax, x) * 1.02
    if name == "int<4,axis=0>":
        assert error(name, mse, x) < error(name, amax, x) / 2


def test_percentile_and_entropy_clip_outliers() -> None:
    x = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    x[:5] = 1000.0
    amax = q.calibrate([x], "int<8>").scales
    for method in ("percentile", "entropy"):
        assert q.calibrate([x], "int<8>", method).scales < amax / 10
    share = q.calibrate([np.abs(x)], "int<8>", "percentile", percentile=90).scales * 127
    assert 1.6 < share < 1.7
    affine = q.calibrate([x + 3], "int<8,zero_point>", "percentile", percentile=99)
    assert affine.scales < 0.1


def test_entropy_leaves_out_zeros() -> None:
    """As many as a ReLU makes; one bin of them would outweigh all else."""
    x = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    for format, least in (("int<8>", 0.9), ("int<4>", 0.6)):
        without = q.calibrate([np.abs(x[x > 0])], format, "entropy")
        parts = [np.maximum(part, 0) for part in np.split(x, 4)]
        assert q.calibrate(parts, format, "entropy") == without
        assert without.scales > least * q.calibrate([x[x > 0]], format).scales


@pytest.mark.parametrize("exponent", [-300, 300])
@pytest.mark.parametrize("method", ["mse", "entropy"])
def test_numbers_whose_squares_are_out_of_range(exponent: int, method: str) -> None:
    x = np.random.default_rng(0).standard_normal(1000)
    scales = q.calibrate([np.ldexp(x, exponent // 3)], "int<4>", method).scales
    assert scales == np.ldexp(q.calibrate([x], "int<4>", method).scales, exponent // 3)
    greatest, least = np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal
    with np.errstate(all="raise"):
        far = q.calibrate([x * 10.0**exponent], "int<4>", method).scales
    assert far == (greatest if exponent > 0 else least)


def test_batches_of_several_sizes_and_libraries(backend: Backend) -> None:
    parts = [batches[0], batches[1, :, :3], batches[2, :, :1]]
    expected = q.calibrate(parts, "int<8,axis=0>", "mse")
    assert expected.scales.shape == (4,)
    with backend.context("float32"):
        got = q.calibrate([backend.array(part) for part in parts], "int<8,axis=0>", "mse")
    assert (got.scales == expected.scales).all()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: q.calibrate([], "int<8>"), ValueError, "at least one array with elements"),
        (lambda: q.calibrate([np.ones(3)], "e4m3fn"), ValueError, "must be a block format"),
        (lambda: q.calibrate([np.ones(3)], "nvfp4"), ValueError, "without second="),
        (lambda: q.calibrate([np.ones(3)], "int<8>", "max"), ValueError, "method must be"),
        (lambda: q.calibrate([np.ones(3, int)], "int<8>"), TypeError, "got dtype int64"),
        (lambda: q.calibrate([np.float32([np.nan])], "int<8>"), ValueError, "must be finite"),
        (
            lambda: q.calibrate([np.ones((2, 3)), np.ones((3, 2))], "int<8,axis=0>"),
            ValueError,
            r"makes \(2,\) of those before, and \(3,\) of x",
        ),
        (
            lambda: q.calibrate([np.ones(3)], "int<8>", "percentile", percentile=0.99),
            ValueError,
            "percentile must be above 50",
        ),
        (lambda: q.calibrate([np.ones(3)], "int<8,axis=out>"), ValueError, "by the word 'out'"),
    ],
)
def test_bad_input(call, error, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=words):
        call()
