"""ggml's blocks by their own rules (clauses BLK-18, BLK-19), judged by the package `gguf`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import qemu_swalp as q
from tests.conformance.cases import COMPILED
from tests.helpers.backends import Backend, same_bits

quants = pytest.importorskip("gguf.quants")

ROUNDING = {
    "q4_0": "nearest_up",
    "q4_1": "nearest_up",
    "q5_0": "nearest_up",
    "q5_1": "nearest_up",
    "q8_0": "nearest_away",
}
numbers = st.floats(-60000, 60000, width=32) | st.integers(-64, 64).map(lambda n: n / 4)
blocks = st.lists(numbers, min_size=32, max_size=32).map(lambda v: np.array(v, np.float32)[None])


def theirs(name: str, x: np.ndarray) -> np.ndarray:
    return getattr(quants, name.upper()).quantize_blocks(x.copy())


@pytest.mark.parametrize("name", ROUNDING)
@settings(max_examples=25)
@given(blocks)
def test_like_gguf(name: str, x: np.ndarray) -> None:
    """Codes, scales, minima and values: zero blocks, scales that vanish, ties, either sign."""
    rounding = ROUNDING[name]
    for factor in (1.0, -1.0, 2.0**-20, 2.0**-40):
        scaled = x * np.float32(factor)
        packed = theirs(name, scaled)
        values = getattr(quants, name.upper()).dequantize_blocks(packed)
        codes = q.encode(scaled, name, rounding)
        assert same_bits(q.quantize(scaled, name, rounding), values).all()
        assert same_bits(q.decode(codes, name), values).all()
        assert (codes.scales.view(np.uint8) == packed[:, :2]).all()
        if codes.zero_points is not None:
            minima = packed[:, 2:4].copy().view(np.float16)
            assert (q.decode(codes.zero_points, "fp16") == minima).all()


def test_ties_and_their_neighbours() -> None:
    """8.5 is added in float32, where 0.49999997 becomes a half; halves of both signs go up."""
    x = np.zeros((2, 32), np.float32)
    x[:, 0] = -8, 8
    x[:, 1:7] = [0.5, -0.5, 0.49999997, -0.49999997, 1.5, -1.5]
    values = quants.Q4_0.dequantize_blocks(theirs("q4_0", x))
    assert (q.quantize(x, "q4_0", "nearest_up") == values).all()
    assert values[0, 1:7].tolist() == [1.0, -0.0, 1.0, -0.0, 2.0, -1.0]


def test_mxfp4() -> None:
    """ggml looks for the nearest value and takes the first of two: halves go toward zero."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((300, 32)) * 2.0 ** rng.integers(-30, 30, (300, 1))).astype(np.float32)
    x[:8] = np.arange(256, dtype=np.float32).reshape(8, 32) / 32  # with halves
    values = quants.MXFP4.dequantize_blocks(quants.MXFP4.quantize_blocks(x))
    assert (q.quantize(x, "mxfp4", "nearest_zero") == values).all()


def test_every_library(backend: Backend) -> None:
    """A ragged run at the end, and signs that differ from block to block."""
    x = np.random.default_rng(0).standard_normal((3, 70)).astype(np.float32)
    for name in ("q4_0",) if backend.name in COMPILED else ("q4_0", "q5_1"):
        expected = q.quantize(x, name, ROUNDING[name])
        assert same_bits(backend.quantize(x, name, ROUNDING[name]), expected).all()


def test_infinities_and_nan_stay() -> None:
    for name in ("q4_0", "q4_1"):
        x = np.array([np.inf, 1, -np.inf, np.nan] + [-3.0] * 28, np.float32)
        assert same_bits(q.quantize(x, name)[:4:2], x[:4:2]).all()
        assert np.isnan(q.quantize(x, name)[3])
        assert (q.quantize(x, name)[4:] == -3).all()
        assert np.isfinite(q.quantize(x, name, overflow="saturate")[:3]).all()


@settings(max_examples=20)
@given(blocks)
def test_narrow_sources(x: np.ndarray) -> None:
    """float16 arrays have the values of float32 ones, rounded once more."""
    half = (x / 8).astype(np.float16)
    for name, rounding in ROUNDING.items():
        wide = q.quantize(half.astype(np.float32), name, rounding)
        assert same_bits(q.quantize(half, name, rounding), wide.astype(np.float16)).all()


def test_files_hold_them(tmp_path: Any) -> None:
    """Minima as codes of fp16: packed, saved and loaded."""
    x = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    state = q.quantize_state_dict({"w": x}, "q4_1", "nearest_up")
    assert state["w"].nbytes == 4 * 64 // 2 + 4 * 2 * 4
    q.save_state(tmp_path / "w.safetensors", state)
    back = q.load_state(tmp_path / "w.safetensors")["w"].decode()
    assert same_bits(back, q.quantize(x, "q4_1", "nearest_up")).all()


def test_float64_is_refused() -> None:
    for name in ROUNDING:
        with pytest.raises(TypeError, match="defined by float32 steps, and float64 has more"):
            q.quantize(np.ones(32), name)
    assert q.quantize([1.0] * 32, "q8_0").dtype == np.float32


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("fixed<4,0,symmetric>,axis=-1,size=32,scale=fp16,rule=ggml_signed", "fixed<W,0> with W"),
        ("fixed<4,0>,axis=-1,size=32,scale=fp16,rule=ggml_minimum", "fixed<W,0,unsigned>"),
        ("fixed<6,0>,axis=-1,size=32,scale=fp16,rule=ggml_signed", "W from 2 to 5"),
        ("fixed<4,0>,axis=-1,scale=fp16,rule=ggml_signed", "runs along an axis"),
        ("fixed<4,0>,axis=-1,size=32,scale=float<8,23>,rule=ggml_signed", "at most 16 bits"),
        ("fixed<4,0>,axis=-1,size=32,scale=fp16,rule=ggml_signed,top=4", "no top="),
    ],
)
def test_refused(parameters: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        q.parse(f"block<{parameters}>")


def test_scales_cannot_be_given() -> None:
    x = np.ones((1, 32), np.float32)
    for name in ("q4_0", "q4_1"):
        with pytest.raises(ValueError, match="computes scales of its own"):
            q.quantize(x, name, scales=1.0)
        with pytest.raises(ValueError, match="computes scales of its own"):
            q.calibrate([x], name)
