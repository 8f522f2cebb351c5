"""ggml's q8_0 and mxfp4 by their own rules (clause BLK-18), judged by the package `gguf`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import qemu_swalp as q
from tests.helpers.backends import Backend, same_bits

quants = pytest.importorskip("gguf.quants")

Q8_0 = "block<fixed<8,0,symmetric>,axis=-1,size=32,scale=fp16,rule=ggml>"
blocks = st.lists(st.floats(-60000, 60000, width=32), min_size=32, max_size=32).map(
    lambda v: np.array(v, np.float32)[None]
)


@pytest.fixture(autouse=True)
def _half_toward_zero() -> Iterator[None]:
    q.register_rounding("half_toward_zero", lambda f: f.above_half)
    yield
    q.unregister_rounding("half_toward_zero")


@settings(max_examples=50)
@given(blocks)
def test_q8_0(x: np.ndarray) -> None:
    """Codes, scales and values, whatever the magnitudes; zero blocks and scales that vanish."""
    for factor in (1.0, 2.0**-20, 2.0**-40):
        scaled = x * np.float32(factor)
        theirs = quants.Q8_0.quantize_blocks(scaled)
        ours = q.encode(scaled, Q8_0, "nearest_away")
        assert (ours.codes.view(np.int8) == theirs[:, 2:].view(np.int8)).all()
        assert (ours.scales.view(np.uint8) == theirs[:, :2]).all()
        values = quants.Q8_0.dequantize_blocks(theirs)
        assert (q.quantize(scaled, Q8_0, "nearest_away") == values).all()
        assert (q.decode(ours, Q8_0) == values).all()


def test_mxfp4() -> None:
    """ggml looks for the nearest value and takes the first of two: halves go toward zero."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((300, 32)) * 2.0 ** rng.integers(-30, 30, (300, 1))).astype(np.float32)
    x[:8] = np.arange(256, dtype=np.float32).reshape(8, 32) / 32  # with halves
    theirs = quants.MXFP4.dequantize_blocks(quants.MXFP4.quantize_blocks(x))
    assert (q.quantize(x, "mxfp4", "half_toward_zero") == theirs).all()


def test_every_library(backend: Backend) -> None:
    x = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
    expected = q.quantize(x, Q8_0, "nearest_away")
    assert same_bits(backend.quantize(x, Q8_0, "nearest_away"), expected).all()


def test_float64_is_refused() -> None:
    with pytest.raises(TypeError, match="defined by float32 steps, and float64 has more"):
        q.quantize(np.ones(32), Q8_0)
    assert q.quantize([1.0] * 32, Q8_0).dtype == np.float32
