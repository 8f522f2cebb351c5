"""Properties of rounding (clauses RND, FMT-8, FMT-9, BLK) on NumPy; `tests/arrays` carries them
to the others.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, example, given, settings, strategies as st

import qemu_swalp as q
from qemu_swalp.rounding import DETERMINISTIC, STOCHASTIC

FORMATS = [
    "e4m3fn",
    "e5m2",
    "e3m4",
    "e4m3fnuz",
    "e2m1fn",
    "e8m0fnu",
    "fixed<8,6>",
    "fixed<8,6,symmetric>",
    "fixed<6,2,unsigned>",
    "fixed<4,-3>",
    "float<4,3,subnormals=false>",
    "float<3,0,specials=finite>",
    "float<4,2,bias=20>",
    "codebook<-1,0,1>",
    "codebook<-1,1>",
    "codebook<-3,0.1,0.5,0.7,40>",
    "bf16",
    "fp16",
    "tf32",
]
SMALL = [name for name in FORMATS if q.parse(name).value_count <= 300]
BLOCKS = [
    "bfp8",
    "bfp4",
    "bfp<8,axis=0>",
    "bfp<6,axis=-1,size=3>",
    "block<e4m3fn,axis=(0,1)>",
    "block<e2m1fn,axis=0,size=2>",
]

float32s = st.floats(width=32, allow_nan=False)
modes = st.sampled_from([*DETERMINISTIC, "stochastic", "stochastic_b<5>", "stochastic_c<32>"])
words = st.integers(0, 2**32 - 1)


def one(
    x: float,
    format: str,
    mode: str = "nearest_even",
    word: int = 0,
    dtype: type = np.float32,
    **kwargs: object,
) -> float:
    random = np.array([word], np.uint32) if mode.startswith("stochastic") else None
    return float(q.quantize(np.array([x], dtype), format, mode, random=random, **kwargs)[0])  # type: ignore[arg-type]


@given(float32s, st.sampled_from(SMALL), modes, words)
@example(0.0, "e8m0fnu", "nearest_even", 0)
@example(-0.0, "codebook<-1,1>", "toward_negative", 0)
def test_the_result_is_a_value_and_neighbours_bracket_the_input(
    x: float, format: str, mode: str, word: int
) -> None:
    f = q.parse(format)
    r = one(x, format, mode, word, overflow="saturate")
    values = f.values()
    assert r in values
    below = max((v for v in values if v <= x), default=values[0])
    above = min((v for v in values if v >= x), default=values[-1])
    if x == 0 and not (f.min <= 0 and 0.0 in values) and isinstance(f, q.BinadeFormat):
        assert r == f.min_positive  # FMT-9
    else:
        assert r in (below, above)


@given(float32s, float32s, st.sampled_from(FORMATS), st.sampled_from(DETERMINISTIC))
def test_monotone(x: float, y: float, format: str, mode: str) -> None:
    x, y = min(x, y), max(x, y)
    policy = "infinity" if q.parse(format).has_infinity else "saturate"  # type: ignore[attr-defined]
    assert one(x, format, mode, overflow=policy) <= one(y, format, mode, overflow=policy)
    assert one(x, format, mode, overflow="saturate") <= one(y, format, mode, overflow="saturate")


@given(float32s, st.sampled_from(FORMATS), modes, words, words)
def test_idempotent_and_exact_values_stay(
    x: float, format: str, mode: str, word: int, other: int
) -> None:
    r = one(x, format, mode, word)
    for again in [*DETERMINISTIC, "stochastic_a", "stochastic_b", "stochastic_c<1>"]:
        assert same(one(r, format, again, other), r)


@given(
    float32s,
    st.sampled_from(
        ["e4m3fn", "e5m2", "e2m1fn", "fixed<8,6,symmetric>", "codebook<-1,0,1>", "e4m3fnuz", "bf16"]
    ),
    modes.filter(lambda mode: mode != "nearest_up"),
    words,
)
def test_symmetric(x: float, format: str, mode: str, word: int) -> None:
    mirrored = {"toward_positive": "toward_negative", "toward_negative": "toward_positive"}.get(
        mode, mode
    )
    assert one(-x, format, mirrored, word) == -one(x, format, mode, word)


def same(a: float, b: float) -> bool:
    return (math.isnan(a) and math.isnan(b)) or (
        a == b and math.copysign(1, a) == math.copysign(1, b)
    )


def rounds_away(mode: str, nu: Fraction, n: int) -> int:
    """In how many of the 2^n random words P3109 rounds away, from its definition."""
    if mode == "stochastic_a":
        return sum(math.floor(nu * 2**n) + r >= 2**n for r in range(2**n))
    if mode == "stochastic_b":
        return sum(math.floor(nu * 2 ** (n + 1)) + 2 * r + 1 >= 2 ** (n + 1) for r in range(2**n))
    return sum(round(nu * 2**n) + r >= 2**n for r in range(2**n))


@pytest.mark.parametrize("mode", STOCHASTIC)
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 12])
@pytest.mark.parametrize("format", ["e4m3fn", "fixed<8,6>", "codebook<-1,0,0.5,1>", "bfp8"])
def test_stochastic_fraction_over_all_words_is_what_p3109_says(
    mode: str, n: int, format: str
) -> None:
    f = q.parse(format)
    inside = (
        np.linspace(0.3, 1.9, 23, dtype=np.float32)
        if format != "codebook<-1,0,0.5,1>"
        else np.linspace(0.01, 0.99, 23, dtype=np.float32)
    )
    all_words = (np.arange(2**n, dtype=np.uint64) << np.uint64(32 - n)).astype(np.uint32)
    for x in (*inside, *-inside, np.float32(1 + 2**-10), np.float32(2**-30)):
        if format == "bfp8":
            column = np.stack([np.full(2**n, x, np.float32), np.full(2**n, 1.5, np.float32)])
            r = q.quantize(column, format, f"{mode}<{n}>", random=np.stack([all_words, all_words]))[
                0
            ]
            down = Fraction(float(q.quantize(column, format, "toward_zero")[0, 0]))
            unit = Fraction(1, 64)
        else:
            r = q.quantize(np.full(2**n, x, np.float32), format, f"{mode}<{n}>", random=all_words)
            down = Fraction(one(float(x), format, "toward_zero"))
            away = one(float(x), format, "toward_positive" if x > 0 else "toward_negative")
            unit = abs(Fraction(away) - down)
        nu = abs(Fraction(float(x)) - down) / unit if unit else Fraction(0)
        assert int((r != float(down)).sum()) == rounds_away(mode, nu, n), (x, f)


DEFINED = [
    "bf16",
    "e4m3fn",
    "fixed<8,6>",
    "codebook<-3,-0.2,0.1,0.5,0.7,40>",
    "codebook<-3,-0.2,0.1,99>",
    "codebook<-1,0,1>",
]


@given(
    st.floats(2.0**-60, 2.0**7, width=32),
    st.sampled_from(DEFINED),
    st.booleans(),
    st.sampled_from(STOCHASTIC),
    st.sampled_from([1, 2, 8, 24, 31, 32]),
    st.integers(-2, 2),
)
@example(
    (2**20 + 1) * 2.0**-39, "fixed<8,6>", False, "stochastic_b", 32, 0
)  # the 33rd bit of ν decides
@example((2**21 + 3) * 2.0**-40, "fixed<8,6>", True, "stochastic_c", 32, 0)  # and the 34th
@example(
    0.375, "codebook<-1,0,1>", False, "stochastic_c", 1, 0
)  # a bit that the long division has not read
def test_words_at_the_threshold_against_the_definition(
    x: float, format: str, negative: bool, mode: str, n: int, offset: int
) -> None:
    """RND-4 with words on both sides of the one that decides, down to values far below the
    quantum.
    """
    x = -x if negative else x
    down, away = (
        one(x, format, "toward_zero"),
        one(x, format, "toward_negative" if negative else "toward_positive"),
    )
    assume(down != away)
    nu = (Fraction(x) - Fraction(down)) / (Fraction(away) - Fraction(down))
    r = min(max(2**n - 1 - math.floor(nu * 2**n) + offset, 0), 2**n - 1)
    up = {
        "stochastic_a": math.floor(nu * 2**n) + r >= 2**n,
        "stochastic_b": math.floor(nu * 2 ** (n + 1)) + 2 * r + 1 >= 2 ** (n + 1),
        "stochastic_c": round(nu * 2**n) + r >= 2**n,
    }[mode]
    assert one(x, format, f"{mode}<{n}>", r << (32 - n)) == (away if up else down)


EVEN_BINADES = [
    name
    for name in SMALL
    if name not in ("e8m0fnu", "float<3,0,specials=finite>", "float<4,3,subnormals=false>")
]


@given(st.sampled_from(EVEN_BINADES), st.integers(0, 2**16), st.floats(0.01, 0.99))
def test_ties_go_to_even_and_inexact_values_to_odd_places(
    format: str, interval: int, part: float
) -> None:
    """RND-4 with parity by RND-3, or by place from zero in formats whose binades all hold an even
    number of values.
    """
    f = q.parse(format)
    values = f.values()
    i = interval % (len(values) - 1)
    zero = 0 if isinstance(f, q.Codebook) else values.index(0.0)
    odd, even = (values[i], values[i + 1]) if (i - zero) % 2 else (values[i + 1], values[i])
    x = float(np.float32(values[i] + part * (values[i + 1] - values[i])))
    assert one(x, format, "to_odd") == odd
    middle = (values[i] + values[i + 1]) / 2
    if float(np.float32(middle)) == middle:
        assert one(middle, format) == even


@given(st.floats(allow_nan=False), words)
def test_float64_is_rounded_once(x: float, word: int) -> None:
    """RND-1: 1 + 2^-8 + 2^-40 goes up to 1 + 2^-7 in bf16; through float32 it would be a tie and go
    down.
    """
    assert one(1 + 2.0**-8 + 2.0**-40, "bf16", dtype=np.float64) == 1 + 2.0**-7
    f = q.parse("e4m3fn")
    r = one(x, "e4m3fn", "stochastic", word, dtype=np.float64)
    assert r in f.values()
    assert abs(r) == 448 or abs(r - x) <= max(abs(x), 2.0**-6) * 2.0**-3


@pytest.mark.parametrize(
    ("x", "mode", "policy", "expected"),
    [
        (464.0, "nearest_even", "nan", 448.0),
        (464.5, "nearest_even", "nan", math.nan),
        (464.0, "nearest_away", "nan", math.nan),
        (1e6, "toward_zero", "nan", 448.0),
        (-1e6, "toward_positive", "nan", -448.0),
        (1e6, "toward_positive", "nan", math.nan),
        (math.inf, "toward_zero", "nan", math.nan),
        (-math.inf, "nearest_even", "saturate", -448.0),
        (1e6, "to_odd", "nan", math.nan),
    ],
)
def test_overflow_of_e4m3fn(x: float, mode: str, policy: str, expected: float) -> None:
    assert same(one(x, "e4m3fn", mode, overflow=policy), expected)


@pytest.mark.parametrize(
    ("x", "mode", "expected"),
    [
        (61440.0, "nearest_even", math.inf),
        (61439.0, "nearest_even", 57344.0),
        (1e9, "toward_zero", 57344.0),
        (-1e9, "toward_negative", -math.inf),
        (-1e9, "toward_positive", -57344.0),
        (math.inf, "toward_zero", math.inf),
    ],
)
def test_overflow_of_e5m2(x: float, mode: str, expected: float) -> None:
    assert one(x, "e5m2", mode) == expected
    assert one(x, "e5m2", mode, overflow="saturate") == math.copysign(57344.0, x)


def test_unsigned_and_zeroless() -> None:
    assert one(-3.0, "fixed<6,2,unsigned>") == 0.0
    assert not np.signbit(one(-3.0, "fixed<6,2,unsigned>"))
    assert math.isnan(one(-3.0, "e8m0fnu"))
    assert math.isnan(one(0.0, "e8m0fnu"))
    assert (
        one(-3.0, "e8m0fnu", overflow="saturate")
        == one(0.0, "e8m0fnu", overflow="saturate")
        == 2.0**-127
    )
    assert one(2.0**-140, "e8m0fnu") == 2.0**-127
    assert one(3.0, "e8m0fnu") == 4.0  # RND-5


def test_zero_keeps_its_sign_where_the_format_has_one() -> None:
    for format, kept in (
        ("e4m3fn", True),
        ("e4m3fnuz", False),
        ("fixed<8,6>", False),
        ("codebook<-1,0,1>", False),
        ("bfp8", False),
    ):
        assert np.signbit(one(-0.0, format)) == kept
        assert np.signbit(one(-1e-30, format, "toward_zero")) == (kept or format == "bfp8")


def test_nan_stays_nan_and_alone() -> None:
    for format in [*FORMATS, *BLOCKS]:
        x = np.array([[math.nan, 0.001, 0.002], [0.0005, -0.00025, 0.001]], np.float32)
        r = q.quantize(x, format, overflow="saturate")
        assert math.isnan(r[0, 0])
        assert np.isfinite(r.reshape(-1)[1:]).all(), format


# Blocks


@settings(max_examples=300)
@given(
    st.lists(float32s, min_size=12, max_size=12),
    st.sampled_from(BLOCKS),
    modes,
    st.integers(0, 2**32),
)
def test_block_formats_are_idempotent(x: list[float], format: str, mode: str, seed: int) -> None:
    array = np.array(x, np.float32).reshape(3, 4)
    r = q.quantize(array, format, mode, random=q.RandomBits(seed))
    if np.isfinite(array).all():
        again = q.quantize(r, format, "stochastic", random=q.RandomBits(seed, 1))
        assert (again == r).all()
        assert (np.abs(r).max() / 2 <= np.abs(array).max()).all()


def test_the_range_of_the_paper_is_not_idempotent() -> None:
    """BLK-6: [-128, 127, 3, 5] has ⌊log2 128⌋ = 7 where [-127, …] had 6."""
    x = np.float32([-127.6, 127, 3, 5])
    once = q.quantize(x, "bfp<8,range=twos>")
    assert once.tolist() == [-128, 127, 3, 5]
    assert q.quantize(once, "bfp<8,range=twos>").tolist() == [-128, 128, 4, 4]
    assert q.quantize(x, "bfp8").tolist() == [-127, 127, 3, 5]


def test_block_of_zeros_nan_and_infinity() -> None:
    """BLK-3, BLK-4, BLK-13."""
    assert q.quantize(np.zeros(3, np.float32), "bfp8").tolist() == [0, 0, 0]
    x = np.float32([1.0, math.inf, -math.inf, math.nan, 0.3])
    assert q.quantize(x, "bfp8")[:3].tolist() == [1.0, math.inf, -math.inf]
    r = q.quantize(x, "bfp8", overflow="saturate")
    assert r[:3].tolist() == [1.0, 127 / 64, -127 / 64]
    assert math.isnan(r[3])
    assert r[4] == np.float32(19 / 64)
    tiny = np.float32(
        [2.0**-134, -5 * 2.0**-134, 0]
    )  # subnormal; 2^-134 is the unit of the least exponent, -128
    assert (q.quantize(tiny, "bfp8") == tiny).all()
    assert (q.quantize(tiny / 4, "bfp8") == np.float32([0, -(2.0**-134), 0])).all()


def test_exponent_just_below_a_power_of_two() -> None:
    """BLK-3: ⌊log2⌋ from bits; a rounded logarithm gives 10 for 1024 - 2^-14."""
    x = np.float32([1024 - 2.0**-14, 7.9])
    assert q.quantize(x, "bfp8").tolist() == [1016.0, 8.0]


def test_geometry() -> None:
    x = np.float32([[1, 0.01, 64, 0.4], [100, 0.3, 1, 0.2]])
    by_rows = q.quantize(x, "bfp<4,axis=0>")
    assert (by_rows == np.stack([q.quantize(row, "bfp4") for row in x])).all()
    by_columns = q.quantize(x, "bfp<4,axis=1>")
    assert (by_columns == np.stack([q.quantize(c, "bfp4") for c in x.T], axis=1)).all()
    assert (q.quantize(x, "bfp<4,axis=-1>") == by_columns).all()
    runs = q.quantize(x, "bfp<4,axis=1,size=3>")
    assert (
        runs
        == np.concatenate(
            [
                np.stack([q.quantize(r, "bfp4") for r in x[:, :3]]),
                np.stack([q.quantize(r, "bfp4") for r in x[:, 3:]]),
            ],
            axis=1,
        )
    ).all()
    assert (q.quantize(x[0], "bfp<4,axis=0>") == q.quantize(x[0], "bfp4")).all()
    assert (q.quantize(x, "bfp<4,axis=(0,1)>") == q.quantize(x, "bfp4")).all()
    cube = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    kept = q.quantize(cube, "bfp<4,axis=(0,2)>")
    assert (kept[1, :, 2] == q.quantize(cube[1, :, 2], "bfp4")).all()


def test_scale_bits_clip_the_exponent() -> None:
    assert q.quantize(np.float32([100.0, 3.0]), "bfp<8,scale_bits=3>").tolist() == [
        8 * 127 / 64,
        3.0,
    ]
    assert q.quantize(np.float32([2.0**-9, 2.0**-10]), "bfp<8,scale_bits=3>").tolist() == [
        2.0**-9,
        2.0**-10,
    ]
    assert q.quantize(np.float32([2.0**-12]), "bfp<8,scale_bits=3>").tolist() == [0.0]
