"""Matrix products with every partial sum rounded (clauses SUM): the oracle, every array library,
bad input.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import qemu_swalp as q
from qemu_swalp.random_bits import stream_key
from tests.conformance import spec
from tests.helpers.backends import Backend, same_bits

oracle = spec.oracle()
RANDOM = q.RandomBits(2**40 + 3, q.stream_id("forward.sum", 5), 7, offset=6)
NAMES = ["fp16", "bf16", "e5m2", "e4m3fn", "e2m1fn"]
ROUNDINGS = [*oracle.DETERMINISTIC, "stochastic_a", "stochastic_b<8>", "stochastic_c<3>"]


@st.composite
def quantizers(draw: st.DrawFn) -> tuple[str, str]:
    return draw(st.sampled_from(NAMES)), draw(st.sampled_from(ROUNDINGS))


@st.composite
def accumulations(draw: st.DrawFn) -> tuple[q.Accumulation, Any]:
    """One of ours, and the oracle's."""
    names: dict[str, Any] = {"sum": draw(quantizers())}
    if draw(st.booleans()):
        names["product"] = draw(quantizers())
    counts = {"group": draw(st.integers(1, 3))}
    if draw(st.booleans()):
        counts["chunk"] = counts["group"] * draw(st.integers(1, 3))
        if draw(st.booleans()):
            names["total"] = draw(quantizers())
    ours = q.Accumulation(**{key: "/".join(pair) for key, pair in names.items()}, **counts)
    theirs = {key: (spec.formats()[name], rounding) for key, (name, rounding) in names.items()}
    return ours, oracle.Accumulation(**theirs, **counts)


@settings(max_examples=60)
@given(
    accumulations(),
    st.integers(0, 2**32 - 1),
    st.sampled_from([np.float32, np.float64]),
    st.booleans(),
)
def test_every_element_is_the_oracles(
    rules: tuple[q.Accumulation, Any], seed: int, dtype: type, coarse: bool
) -> None:
    """SUM-1 to SUM-5: words of every element and rounding among them."""
    ours, theirs = rules
    rng = np.random.default_rng(seed)
    a, b = (
        (rng.standard_normal(shape) * 2.0 ** rng.integers(-9, 9, shape)).astype(dtype)
        for shape in ((2, 7), (7, 3))
    )
    if coarse:  # products and sums often lie half way
        a, b = q.quantize(a, "e5m2"), q.quantize(b, "e3m2fn")
    got = q.matmul(a, b, ours, random=RANDOM)
    for i, j in np.ndindex(got.shape):
        index = RANDOM.offset + 3 * i + j

        def word(kind: int, n: int, index: int = index) -> int:
            key = oracle.part_key(RANDOM.seed, RANDOM.stream, n, kind)
            return int(oracle.philox((index // 4, RANDOM.step, *key), key)[index % 4])

        expected = oracle.sum_of_products(a[i].tolist(), b[:, j].tolist(), theirs, word)
        assert same_bits(got[i, j][None], np.array([expected], dtype)).all(), (str(ours), i, j)


@pytest.mark.parametrize(
    "accumulation",
    ["float<6,9>/nearest_even; chunk=4", "e5m2/stochastic; product=bf16/to_odd; group=2"],
)
def test_shapes_broadcast_on_every_library(backend: Backend, accumulation: str) -> None:
    rng = np.random.default_rng(0)
    for m, n in (((3, 5), (5, 2)), ((2, 1, 3, 5), (4, 5, 1))):
        a, b = rng.standard_normal(m).astype(np.float32), rng.standard_normal(n).astype(np.float32)
        leading = np.broadcast_shapes(m[:-2], n[:-2])
        rows, columns = (
            np.broadcast_to(a, (*leading, *m[-2:])),
            np.broadcast_to(b, (*leading, *n[-2:])),
        )
        expected = np.empty((*leading, m[-2], n[-1]), np.float32)
        for at, index in enumerate(np.ndindex(expected.shape)):
            row, column = rows[index[:-1]][None], columns[(*index[:-2], ..., index[-1])][:, None]
            expected[index] = q.matmul(
                row, column, accumulation, random=q.RandomBits(3, 4, 5, at)
            ).item()
        assert same_bits(backend.matmul(a, b, accumulation, q.RandomBits(3, 4, 5)), expected).all()


def test_any_strides_and_half_precision() -> None:
    rng = np.random.default_rng(1)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        a, b = rng.standard_normal((8, 6)).astype(dtype), rng.standard_normal((5, 8)).astype(dtype)
        wide = [x.astype(np.float32) for x in (a, b)]
        got = q.matmul(a.T[:, ::2], b.T[::2], "e4m3fn/toward_zero")
        assert got.dtype == a.dtype
        assert (
            got.astype(np.float32)
            == q.matmul(wide[0].T[:, ::2], wide[1].T[::2], "e4m3fn/toward_zero")
        ).all()


def test_no_terms_and_no_elements() -> None:
    empty = np.zeros((2, 0), np.float32)
    assert q.matmul(empty, empty.T, "e4m3fn/to_odd").tolist() == [[0.0] * 2] * 2
    assert q.matmul(np.zeros((4, 0, 3)), np.zeros((3, 2)), "e4m3fn/to_odd").shape == (4, 0, 2)


def test_the_published_loss_of_long_sums() -> None:
    """Wang et al. 2018 (arXiv 1812.08011), figure 3: sums of numbers with mean 1 stop in float<6,9>
    where half a unit is more than a summand; in chunks of 64 they go on; stochastic rounding is
    right on average.
    """
    x = (
        np.random.default_rng(0)
        .uniform(1 - np.sqrt(3), 1 + np.sqrt(3), (1, 65536))
        .astype(np.float32)
    )
    ones = np.ones((65536, 1), np.float32)
    exact = x.sum(dtype=np.float64)
    found = {
        rule: q.matmul(x, ones, rule, random=q.RandomBits(1)).item()
        for rule in (
            "float<6,9>/nearest_even",
            "float<6,9>/nearest_even; chunk=64",
            "float<6,9>/stochastic",
        )
    }
    stuck, chunked, stochastic = found.values()
    assert stuck < exact / 8
    assert abs(chunked / exact - 1) < 0.01
    assert abs(stochastic / exact - 1) < 0.1


def test_keys_of_parts() -> None:
    """SUM-5."""
    for seed, stream in ((2**63 + 5, 2**40 + 7), (0, 0)):
        for n in (0, 1, 2**32 - 1):
            assert stream_key(seed, stream, (n, 2)) == oracle.part_key(seed, stream, n, 2)
    assert q.RandomBits(1, 2).key == stream_key(1, 2) == oracle.stream_key(1, 2)


def test_strings() -> None:
    """STR-3."""
    text = (
        "fp16/nearest_even; product=bf16/stochastic_a<8>; group=4; chunk=16;"
        " total=float<8,23>/to_odd"
    )
    made = q.Accumulation.parse(text)
    assert str(made) == text
    first = q.Quantizer("fp16", "nearest_even")
    assert made == q.Accumulation(first, "bf16/stochastic_a<8>", 4, 16, "float<8,23>/to_odd")
    assert q.Accumulation.parse(made) is made
    assert str(q.Accumulation.parse(" fp16 ;chunk=3")) == "fp16/nearest_even; chunk=3"
    assert q.Accumulation.parse(q.Quantizer("fp16/to_odd")) == q.Accumulation("fp16/to_odd")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "fp16; chunks=3",
            (
                r"after its sum an accumulation may have product=, group=, chunk=, total="
                r" once.*'chunks=3'"
            ),
        ),
        ("fp16; chunk=3; chunk=3", "once each"),
        ("fp16; chunk", "once each"),
        ("fp16; group=two", "group must be a number of products, got 'two'"),
        ("fp16; group=0", "group must be from 1 to 2147483647, got 0"),
        ("fp16; group=4; chunk=6", "chunk must be a multiple of group=4, got 6"),
        (
            "fp16; total=fp16",
            "total=fp16 needs chunk=, the number of products in each sum that is added to it",
        ),
        (
            "bfp8",
            (
                "sum must be of an element format, whose values do not depend on their neighbours,"
                " got bfp8"
            ),
        ),
        ("fp16; product=mxfp4", "product must be of an element format"),
        ("takum16", "sum may have up to 51 significant bits, got takum16 with 53"),
        ("fp17", "fp17"),
    ],
)
def test_bad_accumulations(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        q.Accumulation.parse(text)


def test_bad_arguments() -> None:
    a = np.ones((2, 3), np.float32)
    with pytest.raises(TypeError, match="b must be a numpy array of float32 like a, got float64"):
        q.matmul(a, np.ones((3, 2)), "fp16/to_odd")
    with pytest.raises(TypeError, match=r"b must be an array, a number, or a list .*, got 'b'"):
        q.matmul(a, "b", "fp16/to_odd")
    with pytest.raises(
        ValueError, match=r"shapes \(…, M, K\) and \(…, K, N\), got \(2, 3\) and \(2, 3\)"
    ):
        q.matmul(a, a, "fp16/to_odd")
    with pytest.raises(ValueError, match=r"got \(3,\) and \(3, 2\)"):
        q.matmul(a[0], a.T, "fp16/to_odd")
    with pytest.raises(
        ValueError, match=r"leading axes .* must broadcast, got shapes \(2, 1, 3\) and \(3, 3, 1\)"
    ):
        q.matmul(np.ones((2, 1, 3)), np.ones((3, 3, 1)), "fp16/to_odd")
    with pytest.raises(TypeError, match="an array of float16 cannot represent the values of bf16"):
        q.matmul(a.astype(np.float16), a.T.astype(np.float16), "bf16/to_odd")
    with pytest.raises(
        ValueError, match=r"fp16/stochastic_a needs random=RandomBits\(seed, stream, step\)"
    ):
        q.matmul(a, a.T, "fp16/stochastic")
    with pytest.raises(TypeError, match="a quantizer must be a Quantizer, a Format or a string"):
        q.matmul(a, a.T, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected an array of"):
        q.matmul(a.astype(np.int32), a.T, "fp16/to_odd")
    with pytest.raises(ValueError, match=r"random bits reach 2\^34 elements"):
        q.matmul(a, a.T, "fp16/stochastic", random=q.RandomBits(offset=2**34 - 1))
