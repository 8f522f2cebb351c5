"""Elementary operations rounded once (clauses OPS): the oracle, every array library, bad input."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import qemu_swalp as q
from tests.conformance import spec
from tests.helpers.backends import Backend, same_bits

oracle = spec.oracle()
RANDOM = q.RandomBits(2**40 + 3, q.stream_id("forward.add.0", 5), 7, offset=6)
FORMATS = ["fp16", "bf16", "e5m2", "e4m3fn", "e2m1fn", "tf32"]
ROUNDINGS = [*oracle.DETERMINISTIC, "stochastic_a", "stochastic_b<8>", "stochastic_c<3>"]


@st.composite
def numbers(draw: st.DrawFn, dtype: type) -> float:
    """Any of the dtype, and those of few bits, whose results lie half way or next to it."""
    width = 8 * np.dtype(dtype).itemsize
    whole = st.floats(width=width)
    coarse = st.integers(-64, 64).map(lambda n: n / 8)
    near = st.tuples(st.integers(1, 64), st.sampled_from([-1, 1])).map(
        lambda pair: float(np.nextafter(dtype(pair[0] / 8), dtype(pair[1] * np.inf)))
    )
    return draw(st.one_of(whole, coarse, near))


@settings(max_examples=300)
@given(
    st.data(),
    st.sampled_from(oracle.OPERATIONS),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from(FORMATS),
    st.sampled_from(ROUNDINGS),
)
def test_every_element_is_the_oracles(
    data: st.DataObject, operation: str, dtype: type, name: str, rounding: str
) -> None:
    """OPS-1, OPS-2: words of every element among them."""
    a, b = (data.draw(st.lists(numbers(dtype), min_size=5, max_size=5)) for _ in "ab")
    operands = [np.array(x, dtype) for x in ((a,) if operation == "sqrt" else (a, b))]
    got = getattr(q, operation)(*operands, f"{name}/{rounding}", random=RANDOM)
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        word = oracle.element_word(RANDOM.seed, RANDOM.stream, RANDOM.step, RANDOM.offset + i)
        expected = oracle.operate(
            operation, x, y, (spec.formats()[name], rounding), np.dtype(dtype).name, word
        )
        assert same_bits(got[i : i + 1], np.array([expected], dtype)).all(), (
            operation,
            x,
            y,
            got[i],
            expected,
        )


def root_modulo(r: int, bits: int) -> int:
    """s with s² = r modulo 2^bits, r = 1 modulo 8."""
    s = 1
    for k in range(3, bits):
        s += 2 ** (k - 1) if (s * s - r) % 2 ** (k + 1) else 0
    return s


def next_to_a_quotient() -> tuple[float, float]:
    """a, b of 24 bits with a/b = m/2^31 - 1/(2^31·b)."""
    b = 8_388_593
    return float(-pow(2**31, -1, b) % b + b), float(b)


def next_to_a_root() -> float:
    """x of 24 bits with 2^20·√x less than an integer m of 32 bits, by a share of some 2^-54."""
    for r in range(1, 2**11, 8):
        root = root_modulo(r, 40)
        for m in (n % 2**40 for sign in (1, -1) for n in (sign * root, sign * root + 2**39)):
            if 2**31 <= m < 2**32:
                return float((m * m - r) // 2**40)
    raise AssertionError


@pytest.mark.parametrize(
    ("operation", "operands"),
    [
        ("divide", next_to_a_quotient()),
        ("divide", tuple(-x for x in next_to_a_quotient())),
        ("sqrt", (next_to_a_root(),)),
        ("add", (1.0, -(2.0**-60))),
        ("subtract", (1.0, 2.0**-60)),
    ],
)
def test_what_float64_rounds_away_counts(operation: str, operands: tuple[float, ...]) -> None:
    """Results just below what 24 bits and 8 random ones tell apart, nearer than float64 does: one
    word in 256 sees.
    """
    given_ = [np.full(4096, x, np.float32) for x in operands]
    got = getattr(q, operation)(*given_, "float<8,23>/stochastic_a<8>", random=RANDOM)
    words = (
        oracle.element_word(RANDOM.seed, RANDOM.stream, RANDOM.step, RANDOM.offset + i)
        for i in range(4096)
    )
    rule = (oracle.Float(8, 23), "stochastic_a<8>")
    wanted = [
        oracle.operate(operation, *(*operands, 0.0)[:2], rule, "float32", word) for word in words
    ]
    assert same_bits(got, np.array(wanted, np.float32)).all()


def test_float64_operands_give_float64_numbers_first() -> None:
    """OPS-1: a/b, where a is m·b rounded, is m in float64."""
    rng = np.random.default_rng(0)
    m, scale = rng.integers(2**23, 2**24, 500).astype(np.float64), rng.random(500) + 1
    for mode in ("toward_zero", "toward_positive"):
        got = q.divide(m * scale, scale, f"float<8,23>/{mode}")
        rule = (oracle.Float(8, 23), mode)
        wanted = [
            oracle.operate("divide", a, b, rule, "float64")
            for a, b in zip(m * scale, scale, strict=True)
        ]
        assert got.tolist() == wanted


def test_shapes_broadcast_on_every_library(backend: Backend) -> None:
    rng = np.random.default_rng(0)
    for m, n in (((3, 1), (2,)), ((), (2, 2)), ((), ())):
        a, b = (np.asarray(rng.standard_normal(shape), np.float32) for shape in (m, n))
        for operation in ("subtract", "divide"):
            wide = [x.copy() for x in np.broadcast_arrays(a, b)]
            expected = getattr(q, operation)(*wide, "bf16/stochastic", random=RANDOM)
            assert same_bits(
                backend.operate(operation, (a, b), "bf16/stochastic", RANDOM), expected
            ).all()


def test_half_precision() -> None:
    for dtype in (np.float16, ml_dtypes.bfloat16):
        a, b = (np.linspace(0.1, 9, 50).astype(dtype)[::step] for step in (1, -1))
        for operation in ("add", "multiply", "divide"):
            function = getattr(q, operation)
            got = function(a, b, "e4m3fn/toward_zero")
            assert got.dtype == dtype
            wide = function(a.astype(np.float32), b.astype(np.float32), "e4m3fn/toward_zero")
            assert (got.astype(np.float32) == wide).all()


def test_sums_over_an_axis() -> None:
    """OPS-3."""
    x = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    for axis in range(-3, 3):
        rows = np.moveaxis(x, axis, -1)
        wanted = q.matmul(
            rows, np.ones((x.shape[axis], 1), np.float32), "bf16; chunk=2", random=RANDOM
        )
        got = q.sum(x, "bf16; chunk=2", axis=axis, random=RANDOM)
        assert same_bits(got, wanted[..., 0]).all()
        assert (
            q.sum(x, "bf16/to_odd", axis=axis, keepdims=True).shape
            == np.sum(x, axis, keepdims=True).shape
        )
    for axes in ((0, 1), (-1, 0), (2, 1), [1], (), None):
        summed = range(3) if axes is None else sorted(axis % 3 for axis in axes)
        rows = np.moveaxis(x, summed, range(-len(summed), 0))
        rows = rows.reshape(*rows.shape[: 3 - len(summed)], -1)
        wanted = q.sum(rows, "bf16; chunk=2", random=RANDOM)
        got = q.sum(x, "bf16; chunk=2", axis=axes, random=RANDOM)
        assert got.shape == wanted.shape
        assert same_bits(got, wanted).all()
        whole = None if axes is None else tuple(axes)
        kept = q.sum(x, "bf16/to_odd", axis=axes, keepdims=True)
        assert kept.shape == np.sum(x, whole, keepdims=True).shape
    assert q.sum(np.float32(0.1), "e4m3fn", axis=None) == q.quantize(np.float32(0.1), "e4m3fn")
    assert q.sum([0.1, 0.2], "bf16/toward_zero").shape == ()
    assert q.sum(np.zeros((2, 0)), "bf16/to_odd").tolist() == [0.0, 0.0]


def test_no_elements() -> None:
    assert q.add(np.zeros((0, 2)), np.zeros(2), "bf16/to_odd").shape == (0, 2)


def test_bad_arguments() -> None:
    a: Any = np.ones((2, 3), np.float32)
    with pytest.raises(TypeError, match="b must be a numpy array of float32 like a, got float64"):
        q.add(a, np.ones(3), "fp16/to_odd")
    with pytest.raises(
        ValueError, match=r"the shapes of a and b must broadcast, got \(2, 3\) and \(2,\)"
    ):
        q.divide(a, a[:, 0], "fp16/to_odd")
    with pytest.raises(ValueError, match="the quantizer must be of an element format"):
        q.sqrt(a, "bfp8/to_odd")
    with pytest.raises(TypeError, match="an array of float16 cannot represent the values of bf16"):
        q.multiply(a.astype(np.float16), a.astype(np.float16), "bf16/to_odd")
    with pytest.raises(
        ValueError, match=r"fp16/stochastic_a needs random=RandomBits\(seed, stream, step\)"
    ):
        q.subtract(a, a, "fp16/stochastic")
    with pytest.raises(TypeError, match="expected an array of"):
        q.sqrt(a.astype(np.int32), "fp16/to_odd")
    with pytest.raises(ValueError, match="axis must be one of the 2 axes of x, got 2"):
        q.sum(a, "fp16/to_odd", axis=2)
    with pytest.raises(ValueError, match=r"axis must name each axis once, got \(0, -2\)"):
        q.sum(a, "fp16/to_odd", axis=(0, -2))
    for axis in ("0", 0.0, True, (0, None)):
        with pytest.raises(TypeError, match="axis must be an integer, several of them or None"):
            q.sum(a, "fp16/to_odd", axis=axis)
    with pytest.raises(TypeError, match="keepdims must be True or False, got 1"):
        q.sum(a, "fp16/to_odd", keepdims=1)
