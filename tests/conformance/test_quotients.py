"""Quotients as close to a bound as they come, by the kernels and by the reference implementation;
the oracle judges.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from tests.conformance import spec
from tests.helpers import quotients
from tests.helpers.backends import backend, same_bits

oracle = spec.oracle()
SOURCES = {
    "float16": oracle.Float(5, 10),
    "bfloat16": oracle.Float(8, 7),
    "float32": oracle.BINARY32,
    "float64": oracle.Float(11, 52),
}
INTEGERS = {
    "int<3,axis=0>": oracle.Int(3, axis=0),
    "int<2,zero_point,axis=0>": oracle.Int(2, True, 0),
}
by_both = pytest.mark.parametrize("way", ["numpy", "numpy-program"])


@cache
def beside_ties(format: str, dtype: str) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Elements, words, and what the roundings make of them."""
    x, words = quotients.beside_ties(dtype)
    x = np.abs(x) if "zero_point" in format else x
    exact = x.astype(float).ravel().tolist(), x.shape, INTEGERS[format].block_format
    expected = [
        oracle.quantize_scaled(*exact, rounding, words.ravel().tolist(), SOURCES[dtype]).values
        for rounding in quotients.ROUNDINGS
    ]
    return x, words, [np.array(values).reshape(x.shape).astype(x.dtype) for values in expected]


@pytest.mark.parametrize("dtype", SOURCES)
@pytest.mark.parametrize("format", INTEGERS)
@by_both
def test_words_beside_quotients(format: str, dtype: str, way: str) -> None:
    """RND-4, BLK-4, BLK-10: after the bits of x/s that the word completes, the next one and what is
    left decide.
    """
    x, words, expected = beside_ties(format, dtype)
    results = backend(way).quantize_all(x, format, quotients.ROUNDINGS, words)
    for rounding, got, wanted in zip(quotients.ROUNDINGS, results, expected, strict=True):
        assert same_bits(got, wanted).all(), rounding


@pytest.mark.parametrize("name", ["nvfp4", "nvfp4_torchao"])
@by_both
def test_quotients_above_middles(name: str, way: str) -> None:
    """BLK-11: 1⊘e, 2688⊘A and 1⊘g go up where they exceed a middle by however little."""
    for amax in quotients.amaxes(name):
        x = quotients.under_second_scale(amax)
        values = oracle.quantize_scaled(x.ravel().tolist(), x.shape, spec.formats()[name]).values
        assert same_bits(
            backend(way).quantize(x, name), np.array(values, np.float32).reshape(x.shape)
        ).all(), amax
