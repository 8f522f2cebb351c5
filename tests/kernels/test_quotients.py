"""Blocks under scales that are no powers of two: quotients so near a bound between results that
float32 cannot tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

import qemu_swalp as q
from qemu_swalp import kernels
from qemu_swalp.formats.binade import binade
from qemu_swalp.kernels import cpu
from tests.helpers.samples import bits

FORMATS = (
    "int<8,axis=0>",
    "int<4,zero_point,axis=0>",
    "block<e4m3fn,axis=0,scale=float<8,23>>",
    "block<float<7,3,bias=110>,axis=0,scale=float<8,23>>",
)
"""Their scale is amax over the element's max."""
SIZES = (-(2.0**-140), 2.0**-126, 2.0**-110, 2.0**-70, 1.0, 2.0**50, 2.0**100)


@pytest.fixture(params=["baseline", "avx2", "avx512"])
def instructions(request: pytest.FixtureRequest) -> Iterator[None]:
    try:
        with cpu.instructions(request.param):
            yield
    except ValueError as error:
        pytest.skip(str(error))


def same(x: np.ndarray, format: str, rounding: str, words: np.ndarray | None = None) -> bool:
    with kernels.disabled():
        expected = q.quantize(x, format, rounding, random=words)
    return bool((bits(q.quantize(x, format, rounding, random=words)) == bits(expected)).all())


def beside(bound: int, unit: float, most: float, rng: np.random.Generator) -> Iterator[list[float]]:
    """[amax, x, -x] with x/s as near to bound·unit/2 as two float32 come, below and above it; s =
    amax/most.
    """
    odd = bound // (bound & -bound)
    for sign in (-1, 1):
        found = 0
        while found < 2:
            b = int(rng.integers(2**23, 2**24))
            down = (odd * b).bit_length() - 24
            b += (
                sign * -pow(odd, -1, 2**down) - b
            ) % 2**down  # odd·b + sign is a multiple of 2^down
            a = (odd * b + sign) >> down
            amax = np.float32(b) * np.float32(most)
            if max(a, b) >> 24 or amax / np.float32(most) != b:
                continue
            x = a * 2**down * (bound // odd) / 2 * unit
            assert Fraction(x) / b / Fraction(unit) - Fraction(bound, 2) == Fraction(
                sign * (bound // odd), 2 * b
            )
            found += 1
            yield [float(amax), x, -x]


@pytest.mark.parametrize("format", FORMATS)
def test_quotients_beside_a_bound(format: str, instructions: None) -> None:
    rng = np.random.default_rng(1)
    element = q.parse(format).element
    rows = [
        row
        for unit in {1.0, element.min_positive}
        for bound in range(1, 65)
        for row in beside(bound, unit, element.max, rng)
        if row[1] <= row[0]
    ]
    x = (np.array(rows) * 2**-24).astype(np.float32)
    x = np.hstack(
        [x, x[:, 1:] / 2, x[:, 1:] / 4]
    )  # more than a vector of them, in floating point formats bounds again
    for size in SIZES:
        for rounding in (
            "nearest_even",
            "nearest_away",
            "toward_zero",
            "toward_positive",
            "toward_negative",
            "to_odd",
        ):
            assert same(x * np.float32(size), format, rounding), (size, rounding)


@pytest.mark.parametrize("format", FORMATS)
def test_words_beside_the_quotient(format: str, instructions: None) -> None:
    """Words whose sum with the bits of ν is all ones, or just carries."""
    rng = np.random.default_rng(2)
    element = q.parse(format).element
    bounds = rng.integers(2**18, 2**20, 64).tolist()  # in units that the word can tell
    rows = np.array(
        [
            row[:2]
            for bound in bounds
            for row in beside(bound, element.min_positive * 2**-31, element.max, rng)
        ]
    )
    least = max(
        -126, binade(element.min_positive) - binade(element.max) - 6
    )  # to go some way below the values
    others = (
        rows[:, :1]
        * rng.uniform(0.5, 1, (len(rows), 9))
        * 2.0 ** rng.integers(least, 1, (len(rows), 9))
    )
    x = (np.hstack([rows, others, rows[:, :1] / element.max]) * 2**-24).astype(
        np.float32
    )  # ν of the last is 0
    fractions = np.array(
        [
            [_fraction(element, Fraction(float(v)) / Fraction(float(row[-1]))) for v in row]
            for row in x
        ]
    )
    for size in SIZES:
        for distance in (-2, -1, 0, 1, 2):
            words = ((2**32 - fractions + distance) % 2**32).astype(np.uint32)
            for rounding in ("stochastic_a", "stochastic_b", "stochastic_c", "stochastic_b<9>"):
                assert same(x * np.float32(size), format, rounding, words), (
                    size,
                    distance,
                    rounding,
                )


def _fraction(element: q.BinadeFormat, x: Fraction) -> int:
    """⌊ν·2^32⌋."""
    e = x.numerator.bit_length() - x.denominator.bit_length()
    e -= x < Fraction(2) ** e
    return int(x / Fraction(2) ** element.quantum_at(e) % 1 * 2**32)


@pytest.mark.parametrize(
    "format",
    [
        "block<e4m3fn,axis=0,scale=float<11,12>>",
        "block<float<5,20>,axis=0,scale=bf16>",
        "block<float<8,3>,axis=0,scale=float<8,23>>",
        "block<fixed<23,0>,axis=0,scale=float<8,23>>",
        "block<fixed<24,0>,axis=0,scale=float<8,23>>",
        "block<e5m2,axis=0,scale=float<3,2,bias=140>>",
        "block<float<3,2,bias=-110>,axis=0,scale=bf16>",
        "block<fixed<8,40>,axis=0,scale=float<8,23>>",
        "block<float<7,3,bias=0,specials=fn>,axis=0,scale=float<8,23>>",
        "block<float<5,2,unsigned,zero=false,specials=fn>,axis=0,scale=bf16>",
    ],
)
def test_formats_at_the_limits(format: str, instructions: None) -> None:
    """Scales that float32 lacks, elements of too many bits or too small, ranges that quotients
    overflow.
    """
    rng = np.random.default_rng(4)
    x = (
        rng.integers(0, 2**32, (64, 33), dtype=np.uint64).astype(np.uint32) & ~np.uint32(2**30)
    ).view(np.float32)
    x[:32] *= np.float32(2.0) ** rng.integers(-90, 126, (32, 1))
    x[1], x[2], x[3] = (
        0,
        rng.integers(0, 2**14, 33) * 2.0**-149,
        rng.integers(0, 2**9, 33) * 2.0**-149,
    )
    x[40, :3] = np.inf, -np.inf, np.nan
    words = rng.integers(0, 2**32, x.shape, dtype=np.uint64).astype(np.uint32)
    for rounding in ("nearest_even", "toward_zero", "toward_positive", "to_odd"):
        assert same(x, format, rounding), rounding
    assert same(x, format, "stochastic", words)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    "format", ["int<8,axis=0>", "int<4,zero_point,axis=0>", "nvfp4", "fp8_1x128"]
)
def test_products_in_short_dtypes(format: str, dtype: str, instructions: None) -> None:
    """s·r beside the middle of two numbers, where rounding to float32 first would be wrong; down to
    the least.
    """
    rng = np.random.default_rng(5)
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    for size in (1.0, 2.0**-20, 2.0**-100, 2.0**-125):
        x = (rng.standard_normal((512, 40)) * size).astype(np.float32).astype(kind)
        for rounding in ("nearest_even", "toward_zero"):
            assert same(x, format, rounding), (size, rounding)
