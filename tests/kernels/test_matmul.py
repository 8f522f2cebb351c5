"""Products by the kernels have the bits of the reference implementation, in float32 where they
compute in it, on any threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import qemu_swalp as q
from qemu_swalp import kernels
from qemu_swalp.kernels import cpu
from tests.helpers.samples import bits

RANDOM = q.RandomBits(5, 6, 7, offset=3)
SINGLE = [
    "fp16/nearest_even",
    "float<6,9>/toward_negative; chunk=5",
    "float<8,21>/to_odd",
    "fixed<12,4>/nearest_away",
    "bf16/stochastic_a<14>; product=e5m2/stochastic",
    "e4m3/stochastic_b<18>",
    "e4m3/stochastic_c<18>; chunk=3",
    "e5m2/nearest_even; product=float<8,20>/to_odd; chunk=6; total=float<6,15>/toward_zero",
    "e8m0fnu/to_odd",
]
DOUBLE = [
    "float<8,22>/nearest_even",
    "fp16/nearest_even; group=2",
    "bf16/stochastic_a<15>",
    "e5m2/stochastic",
    "fp16/nearest_even; chunk=4; total=float<8,23>/stochastic",
    "posit8/nearest_even; product=posit8/toward_zero",
    "nf4/stochastic",
]


def by_program(a: np.ndarray, b: np.ndarray, accumulation: str) -> np.ndarray:
    with kernels.disabled():
        return q.matmul(a, b, accumulation, random=RANDOM)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal bits; any NaN equals any NaN."""
    return bool(((bits(a) == bits(b)) | (np.isnan(a) & np.isnan(b))).all())


def in_single(a: np.ndarray, b: np.ndarray, accumulation: str) -> bool:
    """Whether the kernels compute in float32."""
    return cpu.computing(a, b, q.Accumulation.parse(accumulation).targets).dtype == "float32"


def coarse(rng: Any, shape: tuple[int, ...], spread: int) -> np.ndarray:
    """Numbers of at most 12 bits, many of them 0, 1 or with few bits."""
    whole = rng.integers(-4095, 4096, shape) >> rng.integers(0, 13, shape)
    return (whole * 2.0 ** rng.integers(-spread, spread + 1, shape)).astype(np.float32)


@settings(max_examples=150)
@given(
    st.sampled_from(SINGLE + DOUBLE),
    st.integers(0, 2**32 - 1),
    st.integers(0, 40),
    st.integers(1, 30),
    st.integers(1, 9),
    st.integers(1, 40),
)
def test_coarse_operands(
    accumulation: str, seed: int, spread: int, terms: int, rows: int, columns: int
) -> None:
    rng = np.random.default_rng(seed)
    a, b = coarse(rng, (rows, terms), spread), coarse(rng, (terms, columns), spread)
    assert same(q.matmul(a, b, accumulation, random=RANDOM), by_program(a, b, accumulation))


PLAIN = [
    "float<6,9>/nearest_even; chunk=5",
    "float<6,9>/nearest_even",
    "float<5,4>/nearest_even; chunk=3; total=bf16/nearest_even",
    "fixed<9,2>/nearest_even",
    "float<5,6,subnormals=false>/nearest_even",
    "bf16/nearest_even",
]


def few_bits(rng: Any, shape: tuple[int, ...], most: int, spread: int) -> np.ndarray:
    """Numbers of few bits: zeros of both signs, and ties, which sums of them meet."""
    whole = rng.integers(-most, most + 1, shape) * 2.0 ** rng.integers(-spread, spread + 1, shape)
    return np.where(rng.random(shape) < 0.1, np.float32(-0.0), whole.astype(np.float32))


@settings(max_examples=150)
@given(
    st.sampled_from(PLAIN),
    st.integers(0, 2**32 - 1),
    st.integers(0, 40),
    st.sampled_from([1, 3]),
    st.tuples(st.integers(1, 30), st.integers(1, 70), st.integers(1, 140)),
)
def test_sums_that_one_rounding_does_for(
    accumulation: str, seed: int, spread: int, most: int, lengths: tuple[int, int, int]
) -> None:
    rng, (terms, rows, columns) = np.random.default_rng(seed), lengths
    a, b = few_bits(rng, (rows, terms), most, spread), few_bits(rng, (terms, columns), most, spread)
    targets = q.Accumulation.parse(accumulation).targets
    assert cpu.computing(a, b, targets).plain
    assert same(q.matmul(a, b, accumulation), by_program(a, b, accumulation))


def level(a: np.ndarray, b: np.ndarray, accumulation: str) -> int:
    return cpu.computing(a, b, q.Accumulation.parse(accumulation).targets).plain


SURE = [
    ("float<6,9>/nearest_even; chunk=64", 2.0**-30, 1, 2.0**-9, 2),
    ("float<6,9>/nearest_even; chunk=64", 2.0**-30, 1, 2.0**-10, 1),  # 2^-40: below the least one
    ("float<6,9>/nearest_even; chunk=64", 1.0, 3, 2.0**20, 2),
    ("float<6,9>/nearest_even; chunk=64", 1.0, 3, 2.0**30, 1),  # sums may pass 2^32
    ("float<5,6,subnormals=false>/nearest_even", 2.0**-14, 1, 1.0, 2),
    ("float<5,6,subnormals=false>/nearest_even", 2.0**-15, 1, 1.0, 1),
    ("e4m3fn/nearest_even", 2.0**-9, 1, 1.0, 2),
    ("e4m3fn/nearest_even", 2.0**-10, 1, 1.0, 1),
    ("bf16/nearest_even", 2.0**-40, 3, 2.0**60, 2),
]


@pytest.mark.parametrize("instructions", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize(("accumulation", "least", "most", "factor", "expected"), SURE)
def test_sums_that_stay_within_the_format(
    accumulation: str, least: float, most: int, factor: float, expected: int, instructions: str
) -> None:
    """Nobody looks at each; those that may leave it are looked at."""
    rng = np.random.default_rng(4)
    small = 2.0**-20 if least < 2.0**-20 and factor < 1 else 1.0
    for rows, terms, columns in ((9, 131, 70), (1, 70, 16), (5, 64, 33), (3, 1, 1)):
        a = rng.integers(-most, most + 1, (rows, terms)) * np.float32(least / small)
        b = rng.integers(0, 2, (2, terms, columns)) * np.float32(small)
        a, b = a.astype(np.float32), b.astype(np.float32)
        if factor != 1:
            b[:, ::3] *= np.float32(factor)
        a[0, 0], b[:, 0, 0] = most * least / small, small * factor
        assert level(a, b, accumulation) == expected
        try:
            with cpu.instructions(instructions):
                got = q.matmul(a, b, accumulation)
        except ValueError as error:
            pytest.skip(str(error))
        assert same(got, by_program(a, b, accumulation))


@pytest.mark.parametrize("precision", [2, 3, 8, 10])
def test_sums_in_the_greatest_binades(precision: int) -> None:
    """Where what one addition rounds by would be infinite."""
    rule, ones = f"float<8,{precision - 1}>/nearest_even", np.ones((3, 1), np.float32)
    for top in range(98, 120):
        beside = 2.0 ** (top - precision)
        x = np.array([[2.0**top, 0.75 * beside, 0], [2.0**top, 2.0**top, beside]], np.float32)
        assert same(q.matmul(x, ones, rule), by_program(x, ones, rule)), top


@pytest.mark.parametrize("format", ["fixed<8,4,unsigned>", "float<4,3,unsigned>", "e8m0fnu"])
def test_sums_without_negative_numbers(format: str) -> None:
    rule, ones = f"{format}/nearest_even", np.ones((4, 2), np.float32)
    for x in (ones.T, ones.T * np.float32(1.1), -ones.T):
        assert same(q.matmul(x, ones, rule), by_program(x, ones, rule))


def test_sums_to_nearest_stop_to_grow() -> None:
    """So long ones do not leave float32: of ones they end at 2^8, of the ties before it too."""
    ones = np.ones((1, 20_000), np.float32)
    for rule, size in (("bf16/nearest_even", 2.0**60), ("bf16/nearest_away", 2.0**60)):
        columns = ones.T * np.float32([size, -size, 3 * size])
        assert in_single(ones, columns, rule)
        assert same(q.matmul(ones, columns, rule), by_program(ones, columns, rule))
    assert not in_single(ones, ones.T * 2.0**124, "bf16/nearest_even")
    assert level(ones, ones.T * np.float32(1.5), "bf16/nearest_even") == 2
    eight = np.float32(1 + 2.0**-7)  # all bits of bfloat16: those of its product with 1, no more
    assert level(ones, ones.T * eight, "bf16/nearest_even") == 2


def test_which_products_are_computed_in_float32() -> None:
    a, b = coarse(np.random.default_rng(0), (4, 9), 3), coarse(np.random.default_rng(1), (9, 4), 3)
    for text in SINGLE + DOUBLE:
        assert in_single(a, b, text) == (text in SINGLE), text


TOO_MUCH = [
    (1 + 2.0**-13, 1 + 2.0**-12),
    (2.0**-80, 2.0**-72),
    (2.0**66, 2.0**62),
    (2.0**-140 * 3, 2.0**-10),
    (np.inf, 1.0),
    (1.0, np.nan),
    (31.0, 1082401.0),
]  # 2^25 - 1, which float32 rounds up


@pytest.mark.parametrize(("a", "b"), TOO_MUCH)
def test_operands_that_float32_does_not_multiply(a: float, b: float) -> None:
    """Too many bits, products out of range, special operands."""
    x, y = np.full((3, 4), a, np.float32), np.full((4, 3), b, np.float32)
    for text in ("float<8,21>/to_odd", "fp16/toward_zero"):
        assert not in_single(x, y, text)
        assert same(q.matmul(x, y, text), by_program(x, y, text))


def test_sums_that_might_leave_float32() -> None:
    """By the bound on what roundings add: 2,000 roundings to 8 bits may make 2^23 of 1; one of 1
    bit doubles it.
    """
    rule = "bf16/toward_positive"
    long, short = np.ones((1, 2000), np.float32), np.ones((1, 2), np.float32)
    for size, fits in ((2.0**60, True), (2.0**80, False)):
        assert in_single(long, long.T * size, rule) == fits
        assert same(q.matmul(long, long.T * size, rule), by_program(long, long.T * size, rule))
    assert in_single(short, short.T, "e8m0fnu/to_odd")
    assert not in_single(long, long.T, "e8m0fnu/to_odd")


@pytest.mark.parametrize("accumulation", [SINGLE[0], SINGLE[4], DOUBLE[2]])
@pytest.mark.parametrize(
    "shapes",
    [
        ((70, 3), (3, 41)),
        ((2, 3), (3, 2500)),
        ((1030, 2), (2, 1)),
        ((3, 2, 40, 3), (2, 3, 50)),
        ((1, 1), (1, 1)),
    ],
)
def test_tiles_and_threads(accumulation: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    rng = np.random.default_rng(2)
    a, b = (coarse(rng, shape, 5) for shape in shapes)
    expected, before = by_program(a, b, accumulation), q.get_num_threads()
    for threads in (1, 3):
        q.set_num_threads(threads)
        try:
            assert same(q.matmul(a, b, accumulation, random=RANDOM), expected)
        finally:
            q.set_num_threads(before)


@pytest.mark.parametrize("instructions", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(instructions: str) -> None:
    rng = np.random.default_rng(3)
    a, b = coarse(rng, (7, 20), 30), coarse(rng, (20, 33), 30)
    try:
        with cpu.instructions(instructions):
            got = [q.matmul(a, b, text, random=RANDOM) for text in SINGLE + DOUBLE]
    except ValueError as error:
        pytest.skip(str(error))
    assert all(
        same(x, by_program(a, b, text)) for x, text in zip(got, SINGLE + DOUBLE, strict=True)
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_numbers(dtype: type) -> None:
    values = np.array(
        [0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 2.0**-140, 3e38, -3e38, 2.0**-126], dtype
    )
    a, b = np.meshgrid(values, values)
    for text in SINGLE + DOUBLE:
        assert same(q.matmul(a, b, text, random=RANDOM), by_program(a, b, text)), text
