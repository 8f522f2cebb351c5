"""OPS-4: Hadamard transforms, the same bits in every library."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, strategies as st

import qemu_swalp as q
from tests.helpers.backends import Backend


def sylvester(size: int) -> np.ndarray:
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def matrix_of(length: int, size: int) -> np.ndarray:
    """The whole transform as one matrix: blocks of the size, then of the rest's powers of two."""
    matrix, start = np.zeros((length, length)), 0
    while start < length:
        while size > length - start:
            size //= 2
        stop = start + size
        matrix[start:stop, start:stop] = sylvester(size) / np.sqrt(size)
        start = stop
    return matrix


def integers(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-8, 9, shape).astype(dtype)


@given(st.integers(0, 70), st.sampled_from([1, 2, 4, 16, 32, 64]))
def test_is_sylvesters_matrix_in_blocks(length: int, size: int) -> None:
    """Of small integers all sums are exact; the factor is rounded once, and so is its product."""
    x = integers((3, length), np.float64, length)
    y = q.hadamard_transform(x, f"hadamard<{size}>")
    np.testing.assert_allclose(y, x @ matrix_of(length, size), rtol=1e-15, atol=1e-13)


@given(
    st.integers(1, 50),
    st.sampled_from([4, 16, 64]),
    st.sampled_from(["none", "fixed", "random"]),
    st.integers(0, 99),
)
def test_a_product_stays_the_same(length: int, size: int, signs: str, seed: int) -> None:
    a, b = integers((5, length), np.float64, seed), integers((7, length), np.float64, seed + 1)
    bits = q.RandomBits(seed=seed, step=3)
    transform = q.Hadamard(size, signs)
    turned = [q.hadamard_transform(x, transform, random=bits) for x in (a, b)]
    np.testing.assert_allclose(turned[0] @ turned[1].T, a @ b.T, rtol=1e-13, atol=1e-11)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize(
    "transform",
    [
        "hadamard<16>",
        "hadamard<8,signs=random>",
        "hadamard<32,signs=fixed>",
        "hadamard<2,signs=-+>",
    ],
)
def test_every_library_has_numpys_bits(backend: Backend, dtype: str, transform: str) -> None:
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    x = np.random.default_rng(1).normal(size=(4, 27, 3)).astype(kind)
    random = q.RandomBits(seed=5, stream=9, step=2)
    for axis, inverse in ((1, False), (-1, False), (1, True)):
        options = {"axis": axis, "random": random, "inverse": inverse}
        expected = q.hadamard_transform(x, transform, **options)
        with backend.context(dtype):
            found = backend.numpy(
                backend.call(
                    lambda a, options=options: q.hadamard_transform(a, transform, **options),
                    backend.array(x),
                )
            )
        assert found.dtype == expected.dtype == x.dtype
        assert found.tobytes() == expected.tobytes()


def test_sums_of_sixteen_bits_are_made_in_float32() -> None:
    """In float16 the sums themselves, 120,000, would overflow."""
    x = np.full(4, 30000, np.float16)
    y = q.hadamard_transform(x, "hadamard<4>")
    assert y.tolist() == [60000.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("signs", ["", ",signs=fixed", ",signs=random", ",signs=+--+-+-+"])
def test_the_inverse(signs: str) -> None:
    """Where blocks are cut, too."""
    x = np.random.default_rng(0).integers(-8, 9, (3, 22, 2)).astype("float32")
    random = q.RandomBits(seed=5, stream=9, step=2)
    there = q.hadamard_transform(x, f"hadamard<8{signs}>", axis=1, random=random)
    back = q.hadamard_transform(there, f"hadamard<8{signs}>", axis=1, random=random, inverse=True)
    np.testing.assert_allclose(back, x, atol=1e-5)
    assert not np.allclose(there, x)


def test_signs() -> None:
    x = np.ones((2, 8), np.float32)
    given = q.hadamard_transform(x, "hadamard<4,signs=+--+>")
    np.testing.assert_array_equal(given, np.tile([[0, 0, 0, 2]], (2, 2)))
    draws = [
        q.hadamard_transform(x, "hadamard<1,signs=random>", random=q.RandomBits(1, step=step))
        for step in (0, 0, 1)
    ]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()
    assert (draws[0][0] == draws[0][1]).all(), "one sign for each index of the axis"
    assert set(draws[0].flat) == {-1.0, 1.0}
    fixed = [
        q.hadamard_transform(x, "hadamard<4,signs=fixed>", random=q.RandomBits(3, step=step))
        for step in (0, 1)
    ]
    np.testing.assert_array_equal(*fixed)


@pytest.mark.parametrize(
    "text", ["hadamard<16>", "hadamard<4,signs=random>", "hadamard<2,signs=+->"]
)
def test_strings(text: str) -> None:
    assert str(q.Hadamard.parse(text)) == text
    assert q.Hadamard.parse(q.Hadamard.parse(text)) == q.Hadamard.parse(f" {text} ")


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: q.Hadamard(12), ValueError, "power of two, got 12"),
        (lambda: q.Hadamard(4, "+-"), ValueError, "size=4 characters"),
        (lambda: q.Hadamard(4, "rnadom"), ValueError, "'random'"),
        (lambda: q.Hadamard(4, 1), TypeError, "signs must be a string"),
        (lambda: q.Hadamard.parse("hadamrd<4>"), ValueError, "transforms look like"),
        (lambda: q.Hadamard.parse(4), TypeError, "got 4"),
        (
            lambda: q.hadamard_transform(np.ones(4), "hadamard<4,signs=random>"),
            ValueError,
            "random=",
        ),
        (lambda: q.hadamard_transform(np.ones(4), "hadamard<4>", axis=1), ValueError, "axis"),
        (lambda: q.hadamard_transform(np.ones(4), "hadamard<4>", inverse=1), TypeError, "inverse"),
        (lambda: q.hadamard_transform(np.arange(4), "hadamard<4>"), TypeError, "int64"),
        (lambda: q.hadamard_transform(np.float32(1), "hadamard<4>"), ValueError, "axis"),
    ],
)
def test_bad_arguments(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("signs", ["none", "fixed", "random"])
def test_tensorflow_graphs_may_leave_lengths_open(signs: str, compiled: bool) -> None:
    tf = pytest.importorskip("tensorflow")
    transform, random = q.Hadamard(8, signs), q.RandomBits(3, 1, 4)
    anything = tf.TensorSpec((None, None), tf.float32)

    @tf.function(input_signature=[anything], jit_compile=compiled)
    def turned(x: Any) -> Any:
        return q.hadamard_transform(x, transform, axis=0, random=random)

    for length in (1, 8, 13, 31) if not compiled else (13,):
        x = integers((length, 3), np.float32, length)
        expected = q.hadamard_transform(x, transform, axis=0, random=random)
        assert turned(tf.constant(x)).numpy().tobytes() == expected.tobytes()
