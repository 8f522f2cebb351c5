"""The kernels give the bits of the reference implementation: NaN's sign included, on every
instruction set of the machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import qemu_swalp as q
from qemu_swalp import kernels
from qemu_swalp.kernels import cpu
from tests.helpers.samples import (
    BLOCKS,
    DTYPES,
    POLICIES,
    ROUNDINGS,
    array,
    bits,
    blocks_of,
    formats,
)
from tests.kernels import differential

RANDOM = q.RandomBits(2**40 + 3, q.stream_id("weight", 5), 2**31 + 7, offset=6)


def by_program(*arguments: Any, **options: Any) -> np.ndarray:
    with kernels.disabled():
        return q.quantize(*arguments, **options)


def outcome(quantize: Any, *arguments: Any, **options: Any) -> np.ndarray | str:
    """The result; or the words of the error, where the format does not go with dtype, rounding or
    policy.
    """
    try:
        return quantize(*arguments, **options)
    except (TypeError, ValueError) as error:
        return str(error)


def same(a: np.ndarray | str, b: np.ndarray | str) -> bool:
    return a == b if isinstance(a, str) or isinstance(b, str) else bool((bits(a) == bits(b)).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", formats())
def test_every_format_and_rounding(format: str, dtype: str) -> None:
    x = array(dtype)
    for rounding in ROUNDINGS:
        random = RANDOM if "stochastic" in rounding else None
        expected = outcome(by_program, x, format, rounding, random=random)
        assert same(outcome(q.quantize, x, format, rounding, random=random), expected), rounding


@pytest.mark.parametrize(
    "format",
    [
        "e5m2",
        "e4m3fn",
        "e8m0fnu",
        "float<4,3,unsigned>",
        "p3109_k6p3ue",
        "posit8",
        "block<e5m2,axis=0>",
        "block<p3109_k6p3ue,axis=0,scale=float<8,23>>",
        "uneven_kernel_test<4>",
        "float<5,2,unsigned,zero=false,specials=fn>",
    ],
)
def test_every_policy(format: str) -> None:
    for dtype in ("float32", "float64"):
        x = array(dtype)
        for policy in POLICIES:
            for rounding in ROUNDINGS[:7]:
                options = {
                    "random": RANDOM if rounding == "stochastic" else None,
                    "overflow": policy,
                }
                expected = outcome(by_program, x, format, rounding, **options)
                assert same(outcome(q.quantize, x, format, rounding, **options), expected), (
                    dtype,
                    policy,
                    rounding,
                )


@pytest.mark.parametrize("instructions", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(instructions: str) -> None:
    sample = (
        "e4m3fn",
        "e5m2",
        "fixed<8,6>",
        "bfp<8,axis=0>",
        "bfp<8,axis=-1>",
        "mxfp4",
        "nvfp4",
        "int8",
        "codebook<-3,0.5,0.75,40>",
        "block<nf4,axis=-1,size=7,scale=float<8,23>>",
        "block<posit8,axis=0,size=3,top=1>",
        "block<e2m1fn,axis=-1,size=16,scale=e4m3fn,second=float<8,23>,rule=four_over_six>",
        "block<fixed<8,0,symmetric>,axis=-1,size=32,scale=fp16,rule=ggml>",
    )

    def all_of(quantize: Any) -> list[np.ndarray]:
        return [
            quantize(array(dtype), format, rounding, random=RANDOM)
            for dtype in ("float16", "float32")
            for format in sample
            for rounding in ("nearest_even", "stochastic", "stochastic_c<8>")
        ]

    try:
        with cpu.instructions(instructions):
            assert cpu.instruction_set() == instructions
            got = all_of(q.quantize)
    except ValueError as error:
        pytest.skip(str(error))
    assert all((bits(a) == bits(b)).all() for a, b in zip(got, all_of(by_program), strict=True))


def test_an_instruction_set_that_is_not_there() -> None:
    with (
        pytest.raises(ValueError, match="do not use the instruction set 'mmx'; they use"),
        cpu.instructions("mmx"),
    ):
        pass


@settings(max_examples=150)
@given(st.data())
def test_every_shape_of_blocks(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    format = data.draw(blocks_of(len(shape)))
    words = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = words.standard_normal(shape).astype(
        data.draw(st.sampled_from(["float16", "float32", "float64"]))
    )
    order = data.draw(st.permutations(range(len(shape))))
    x = np.ascontiguousarray(x.transpose(order)).transpose(
        np.argsort(order)
    )  # in another order of memory
    offset = data.draw(st.integers(0, 9))
    random = q.RandomBits(1, 2, 3, offset)
    for rounding in ("nearest_even", "stochastic"):
        got, expected = (f(x, format, rounding, random=random) for f in (q.quantize, by_program))
        assert (bits(got) == bits(expected)).all()


def test_given_words() -> None:
    x = array("float32")
    words = np.random.default_rng(0).integers(0, 2**32, x.shape, dtype=np.uint32)
    for format in ("e4m3fn", "bfp<8,axis=0>", "nvfp4", "nf4"):
        for given_words in (words, words.view(np.int32), np.asfortranarray(words)):
            got = q.quantize(x, format, "stochastic", random=given_words)
            assert (bits(got) == bits(by_program(x, format, "stochastic", random=words))).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "format",
    [
        *BLOCKS,
        "fixed<8,6,symmetric>",
        "e4m3fn",
        "p3109_k6p3ue",
        "uneven_kernel_test<4>",
        "nvfp4",
        "int8",
        "nf4",
        "posit8",
        "codebook<-3,0.1,0.5,0.7,40>",
    ],
)
def test_extreme_words(format: str, dtype: str) -> None:
    """Words at which sums just carry or just do not, where ν is 0 or a quotient is next to a
    bound.
    """
    x = array(dtype)
    for word in (0, 1, 2**31 - 1, 2**31, 2**32 - 1):
        words = np.full(x.shape, word, np.uint32)
        for rounding in ROUNDINGS[6:]:
            expected = outcome(by_program, x, format, rounding, random=words)
            assert same(outcome(q.quantize, x, format, rounding, random=words), expected), (
                rounding,
                word,
            )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_words_beside_the_fraction(dtype: str) -> None:
    """Words whose sum with the bits of ν is all ones or just carries, of any ν down to the
    smallest.
    """
    rng = np.random.default_rng(3)
    significands = rng.integers(1, 2**24, 6400)
    significands[::7] = 2**23
    exponents = rng.integers(6, 78, 6400)
    x = np.ldexp(significands.astype(dtype), -exponents)  # in quanta of 2^-6
    bits32 = np.array(
        [
            ((int(n) << 64) >> (int(e) - 6) & (2**64 - 1)) >> 32
            for n, e in zip(significands, exponents, strict=True)
        ]
    )
    for distance in (-2, -1, 0, 1):
        words = ((2**32 - bits32 + distance) % 2**32).astype(np.uint32)
        for rounding in (
            "stochastic_a",
            "stochastic_b",
            "stochastic_c",
            "stochastic_c<31>",
            "stochastic_b<9>",
        ):
            for format in (
                ("fixed<24,6>", "bfp<20,axis=0>") if dtype == "float64" else ("fixed<24,6>",)
            ):
                got, expected = (
                    f(x, format, rounding, random=words) for f in (q.quantize, by_program)
                )
                assert (bits(got) == bits(expected)).all(), (distance, rounding, format)


TWO_LEVELS = (
    "nvfp4",
    "nvfp4_torchao",
    "block<e4m3fn,axis=-1,size=16,scale=e4m3fn,second=float<8,23>>",
)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("format", TWO_LEVELS)
def test_scales_at_the_ends_of_float32(format: str, dtype: str) -> None:
    """Arrays of zeros, of subnormals, of the largest numbers: scales of scales vanish, overflow and
    are cut.
    """
    kind = array(dtype).dtype
    unsigned = np.dtype(f"u{kind.itemsize}")
    rng = np.random.default_rng(2)
    mantissa = {"float16": 10, "bfloat16": 7, "float32": 23}[dtype]
    top = int(np.array(np.inf, kind).view(unsigned)) - 1
    ranges = [
        (0, 1),
        (0, 2),
        (0, 40),
        (0, 3000),
        (0, 1 << mantissa),
        (0, 1 << (mantissa + 4)),
        (top - 9, top + 1),
    ]
    for low, high in [*ranges, (0, top + 1)]:
        magnitudes = rng.integers(low, min(high, top + 1), (12, 48)).astype(unsigned)
        magnitudes[::3, :16] >>= np.array(
            mantissa // 2, unsigned
        )  # some blocks far below the others
        magnitudes[1::5] = 0
        signs = rng.integers(0, 2, magnitudes.shape).astype(unsigned) << np.array(
            8 * kind.itemsize - 1, unsigned
        )
        x = (magnitudes | signs).view(kind)
        for rounding in ("nearest_even", "stochastic"):
            random = RANDOM if rounding == "stochastic" else None
            got, expected = (
                f(x, format, rounding, random=random) for f in (q.quantize, by_program)
            )
            assert (bits(got) == bits(expected)).all(), (low, high, rounding)


@pytest.mark.parametrize("instructions", differential.INSTRUCTIONS)
@pytest.mark.parametrize(
    ("format", "numbers", "dtype"),
    [
        # lifted by their scale beyond the greatest number of the source dtype
        ("block<bf16,axis=1,size=64,scale=fp16,second=float<8,23>>", [0.25, 1, 2, -3], "bfloat16"),
        ("block<float<8,23>,axis=1,size=16,scale=e5m2>", [2.2e37, 9.1e37, -2.7e38], "float32"),
        ("block<float<8,23>,axis=1,size=8,scale=float<8,23>,rule=ggml>", [1.5, -3, 2], "float32"),
        # infinities times the inverse 0 of a scale that vanishes
        ("block<float<3,0>,axis=-1,size=32,scale=float<3,2>,rule=ggml>", [np.inf], "float32"),
        # the inverse of a scale beyond float32
        ("block<e4m3fn,axis=-1,size=8,scale=bf16,rule=ggml,top=0.5>", [3e38, -1, 2], "bfloat16"),
        # an end of the range that is beyond the source dtype's
        ("block<fixed<15,5>,axis=-1,size=16,scale=e8m0fnu,rule=ceil>", [-np.inf, 3e38], "float32"),
        # quotients below the least subnormal number
        ("int<4>", [16.58, -1e-323, 5e-324, 2e-323], "float64"),
        ("int<4>", [16.58, -2.8e-45, 1.4e-45, 5.6e-45], "float32"),
        # quotients that vanish, of elements without zero
        (
            "block<float<5,2,zero=false,specials=fn>,axis=1,size=16,scale=bf16>",
            [1e10, 5e-44],
            "float32",
        ),
        (
            "block<float<5,2,unsigned,zero=false,specials=fn>,axis=-1,size=32,scale=float<8,23>>",
            [1e6, 1.4e-45],
            "float32",
        ),
        (
            "block<float<3,2,zero=false,specials=fn>,axis=-1,size=16,scale=bf16,rule=ggml>",
            [6e4, 6e-8],
            "float16",
        ),
        # zeros in elements without zero, which count as the least number where scales are tried
        (
            "block<float<4,3,zero=false,specials=fn>,axis=-1,size=2,scale=bf16,top=1,rule=mse>",
            [1.1063537e-19, 0, 0, 3.7, -0.2],
            "float32",
        ),
    ],
)
def test_ends_of_the_source_dtype(
    format: str, numbers: list[float], dtype: str, instructions: str
) -> None:
    with np.errstate(over="ignore"):
        x = np.tile(np.array(numbers).astype(array(dtype).dtype), (3, 80))
    for rounding in ROUNDINGS:
        for overflow in (None, "saturate", "nan"):
            options = {"overflow": overflow}
            if "stochastic" in rounding:
                options["random"] = RANDOM
            found = differential.differs(
                differential.Case(x, format, rounding, options, instructions)
            )
            assert not found, (rounding, overflow)


def test_random_cases() -> None:
    """Some of what `python -m tests.kernels.differential` tries for as long as it is told to."""
    assert not [seed for seed in range(1500) if differential.differs(differential.case(seed))]
