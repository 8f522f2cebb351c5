"""Rounding modes of one's own: `register_rounding`."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import qemu_swalp as q
from qemu_swalp.training import Recipe
from tests.helpers.backends import Backend, same_bits

SAME = {
    "own_even": ("nearest_even", lambda f: f.above_half | (f.half & f.odd)),
    "own_away": ("nearest_away", lambda f: f.above_half | f.half),
    "own_zero": ("nearest_zero", lambda f: f.above_half),
    "own_half_up": ("nearest_up", lambda f: f.above_half | (f.half & ~f.negative)),
    "own_up": ("toward_positive", lambda f: ~f.negative),
    "own_odd": ("to_odd", lambda f: ~f.odd),
}
"""Own modes that are built-in ones."""
FORMATS = [
    *("e4m3fn", "fixed<8,2>", "posit8", "nf4", "pot4", "binary", "codebook<-3,0.1,0.5,40>"),
    *("bfp<8,axis=0>", "int<8,axis=0>", "mxfp4", "nvfp4", "int<4,zero_point>"),
    "block<nf4,axis=0,scale=float<8,23>>",
]
arrays = st.lists(st.floats(-8, 8, width=32), min_size=8, max_size=8).map(
    lambda v: np.array(v, np.float32).reshape(2, 4)
)


@pytest.fixture(autouse=True)
def _own_modes() -> Iterator[None]:
    for name, (_, rule) in SAME.items():
        q.register_rounding(name, rule)
    q.register_rounding("own_sr", lambda f: f.top + f.random >= 256, stochastic=True)
    yield
    for name in (*SAME, "own_sr"):
        q.unregister_rounding(name)


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=10)
@given(arrays, st.integers(0, 2**32))
def test_modes_that_are_built_in_ones(format: str, x: np.ndarray, seed: int) -> None:
    """RND-4, RND-12: what a function sees is enough to say the built-in modes, in every family."""
    for name, (builtin, _) in SAME.items():
        assert same_bits(q.quantize(x, format, name), q.quantize(x, format, builtin)).all()
    random = q.RandomBits(seed)
    assert same_bits(
        q.quantize(x, format, "own_sr<8>", random=random),
        q.quantize(x, format, "stochastic_a<8>", random=random),
    ).all()


def test_every_library(backend: Backend) -> None:
    """A mode that nobody has: halves go down, below and above zero."""
    q.register_rounding("half_down", lambda f: f.above_half | (f.half & f.negative))
    try:
        x = np.float32([[0.5, 1.5, -0.5, 2.25], [-1.5, 0.0, 3.5, 100.0]])
        expected = [[0.0, 1.0, -1.0, 2.0], [-2.0, 0.0, 3.0, 31.0]]
        assert backend.quantize(x, "fixed<6,0>", "half_down").tolist() == expected
        table = backend.quantize(x, "codebook<-2,-1,0,1,2,3,31>", "half_down")
        assert table.tolist() == expected
        words = np.arange(8, dtype=np.uint32).reshape(2, 4) << np.uint32(29)
        got = backend.quantize(x, "e2m1fn", "own_sr<8>", words=words)
        assert same_bits(got, q.quantize(x, "e2m1fn", "own_sr<8>", random=words)).all()
    finally:
        q.unregister_rounding("half_down")


def test_wherever_a_rounding_is_named() -> None:
    quantizer = q.Quantizer("e4m3fn", "own_away")
    assert str(quantizer) == "e4m3fn/own_away"
    assert q.Quantizer.parse("e4m3fn/own_away") == quantizer
    assert pickle.loads(pickle.dumps(quantizer)) == copy.deepcopy(quantizer) == quantizer
    assert str(Recipe(weight="e4m3fn/own_sr<8>").weight) == "e4m3fn/own_sr<8>"
    assert q.encode([0.1], "mxfp4", "own_away").codes.shape == (1,)
    assert q.add(np.float32([1.0]), np.float32([0.0625]), "e4m3fn/own_away").tolist() == [1.125]
    assert q.analyze(np.float32([0.1]), "e4m3fn", "own_away").count == 1


def test_a_mode_that_is_registered_anew() -> None:
    """JAX compiles a mode by its function, not by its name."""
    jax = pytest.importorskip("jax")
    x = jax.numpy.asarray([0.5, 1.75])
    q.register_rounding("own_even", lambda f: f.inexact)
    assert q.quantize(x, "fixed<8,0>", "own_even").tolist() == [1.0, 2.0]
    q.register_rounding("own_even", lambda f: f.inexact & f.negative)
    assert q.quantize(x, "fixed<8,0>", "own_even").tolist() == [0.0, 1.0]


def test_bad_input() -> None:
    for name in ("nearest_even", "rne", "Stochastic"):
        with pytest.raises(ValueError, match="is built in; choose another name"):
            q.register_rounding(name, lambda f: f.half)
    with pytest.raises(ValueError, match="must be an identifier"):
        q.register_rounding("half down", lambda f: f.half)
    with pytest.raises(TypeError, match="must be a function of Fractions, got 1"):
        q.register_rounding("own_even", 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no rounding mode of that name"):
        q.unregister_rounding("own_evn")
    with pytest.raises(ValueError, match="needs random="):
        q.quantize([0.1], "e4m3fn", "own_sr")
    q.register_rounding("own_even", lambda f: 1)
    with pytest.raises(TypeError, match="must give a boolean array, got int"):
        q.quantize([0.1], "e4m3fn", "own_even")
    q.register_rounding("own_even", lambda f: ~f.above_half)
    with pytest.raises(ValueError, match="falls between -1"):
        q.quantize([0.1], "nf4", "own_even")
