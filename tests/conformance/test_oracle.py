"""The oracle judged: by published numbers, by ml_dtypes and gfloat, by brute force, and for what it
may not import.

Where a peer deviates from semantics.md, a test states the deviation, so that a changed peer is
noticed.
"""

from __future__ import annotations

import ast
import bisect
import math
import random
import re
import subprocess
import sys
from fractions import Fraction
from typing import Any

import gfloat  # type: ignore[import-untyped]
import gfloat.formats  # type: ignore[import-untyped]
import ml_dtypes
import numpy as np
import pytest

from tests.conformance import spec
from tests.helpers.peers import GFLOAT, ML_DTYPES, MODES, VARIANTS

oracle = spec.oracle()
FORMATS = spec.formats()
ELEMENTS = {name: fmt for name, fmt in FORMATS.items() if isinstance(fmt, oracle.Element)}
FLOATS = {name: fmt for name, fmt in FORMATS.items() if isinstance(fmt, oracle.Float)}
SMALL = {name: fmt for name, fmt in ELEMENTS.items() if fmt.bits <= 8}
WIDE = ("fp16", "bf16", "tf32")


def random_inputs(fmt: Any, count: int = 300) -> list[float]:
    """Numbers spread evenly over the binades of a format and a few beyond, from a fixed seed."""
    draw = random.Random(repr(fmt))
    low, high = oracle.binade(fmt.least) - 3, oracle.binade(fmt.high) + 3
    return [
        draw.choice((-1, 1)) * math.ldexp(1 + draw.getrandbits(23) / 2**23, draw.randint(low, high))
        for _ in range(count)
    ]


def inputs(name: str) -> np.ndarray:
    """The inputs of a format's vector file, and random ones."""
    return np.array([row.input for row in spec.read_round(name)] + random_inputs(FORMATS[name]))


def in_float32(x: np.ndarray) -> np.ndarray:
    """Those that float32 holds."""
    with np.errstate(over="ignore"):
        held: np.ndarray = x[(x.astype(np.float32) == x) | np.isnan(x)]
    return held


def judged(
    x: np.ndarray, fmt: Any, mode: str, policy: str, words: np.ndarray | None = None
) -> np.ndarray:
    """The oracle over an array."""
    drawn = [0] * x.size if words is None else words.tolist()
    return np.array(
        [oracle.quantize(v, fmt, mode, w, policy) for v, w in zip(x.tolist(), drawn, strict=True)]
    )


def assert_same(x: np.ndarray, got: np.ndarray, expected: np.ndarray) -> None:
    """Equal bits, NaN equal to NaN."""
    same = (got.view(np.int64) == expected.view(np.int64)) | (np.isnan(got) & np.isnan(expected))
    bad = np.flatnonzero(~same)[:5]
    assert same.all(), [(x[i].hex(), got[i].hex(), expected[i].hex()) for i in bad]


# ------------------------------------------------------------------------------------------
# published facts


@pytest.mark.parametrize("name", spec.published())
def test_published_facts(name: str) -> None:
    """FMT-1, FMT-3, FMT-4, FMT-6: bias, range, smallest numbers and code counts are those of the
    cited documents.
    """
    fmt, facts = FORMATS[name], dict(spec.published()[name])
    codes = dict(fmt.codes())
    numbers = {x for x in codes.values() if math.isfinite(x)}
    derived = {
        "bits": fmt.bits,
        "max": float(fmt.high),
        "min_subnormal": float(fmt.least),
        "value_count": len(numbers),
        "nan_codes": sum(math.isnan(x) for x in codes.values()),
        "has_infinity": math.inf in codes.values(),
        "has_negative_zero": any(x == 0 and oracle.is_negative(x) for x in codes.values()),
    }
    if isinstance(fmt, oracle.Float):
        derived |= {
            "bias": fmt.offset,
            "min_normal": float(fmt.magnitude(fmt.steps if fmt.zero else 0)),
        }
    stated = {
        key: float.fromhex(fact) if isinstance(fact, str) else fact for key, fact in facts.items()
    }
    assert {key: derived[key] for key in stated} == stated
    assert len(fmt.nan_codes) == stated["nan_codes"]
    assert fmt.has_infinity == stated["has_infinity"]
    assert fmt.has_negative_zero == stated["has_negative_zero"]


def test_every_float_has_published_facts() -> None:
    """FMT-4: no named float escapes the published numbers."""
    assert set(FLOATS) <= set(spec.published())


@pytest.mark.parametrize("name", [name for name in ML_DTYPES if name not in ("fp16", "e8m0fnu")])
def test_limits_of_ml_dtypes(name: str) -> None:
    """FMT-4, FMT-6: ml_dtypes names the same limits."""
    info, fmt = ml_dtypes.finfo(ML_DTYPES[name][0]), FORMATS[name]
    assert (float(info.max), float(info.min)) == (fmt.high, fmt.low)
    assert float(info.smallest_subnormal) == fmt.least
    assert float(info.tiny) == fmt.magnitude(fmt.steps)


# ------------------------------------------------------------------------------------------
# ml_dtypes


@pytest.mark.parametrize("name", ML_DTYPES)
def test_nearest_even_of_ml_dtypes(name: str) -> None:
    """RND-1, RND-2, RND-4, RND-5, RND-7, RND-8, RND-10: its casts from float32, NaN apart where the
    format has none.
    """
    dtype, policy = ML_DTYPES[name]
    fmt = FORMATS[name]
    x = in_float32(inputs(name))
    if not fmt.nan_codes:
        x = x[~np.isnan(x)]
    if name == "e8m0fnu":  # the test after this one says why
        x = x[~((x > 2.0**-127) & (x < 2.0**-126))]
    with np.errstate(over="ignore", invalid="ignore"):
        expected = x.astype(np.float32).astype(dtype).astype(np.float64)
    assert_same(x, judged(x, fmt, "nearest_even", policy), expected)


def test_ml_dtypes_deviates_at_the_bottom_of_e8m0() -> None:
    """RND-4, RND-5: ties go up alike, but ml_dtypes sends all that lies between 2^-127 and 2^-126
    to 2^-126.
    """

    def theirs(x: float) -> float:
        return float(np.float32(x).astype(ml_dtypes.float8_e8m0fnu))

    fmt = FORMATS["e8m0fnu"]
    assert theirs(3.0) == oracle.quantize(3.0, fmt) == 4.0
    assert theirs(1.5 * 2.0**-127) == oracle.quantize(1.5 * 2.0**-127, fmt) == 2.0**-126
    assert (theirs(1.25 * 2.0**-127), oracle.quantize(1.25 * 2.0**-127, fmt)) == (
        2.0**-126,
        2.0**-127,
    )


def test_ml_dtypes_rounds_float64_twice() -> None:
    """RND-1: 1 + 2^-8 + 2^-40 lies above the tie of bf16; through float32 it falls on it."""
    x = 1 + 2.0**-8 + 2.0**-40
    assert oracle.quantize(x, FORMATS["bf16"]) == 1 + 2.0**-7
    assert float(np.float64(x).astype(ml_dtypes.bfloat16)) == 1.0


@pytest.mark.parametrize("name", [name for name in ML_DTYPES if name != "fp16"])
def test_codes_of_ml_dtypes(name: str) -> None:
    """FMT-4, FMT-6, COD-1: every code stands for the same number there."""
    fmt, dtype = FORMATS[name], ML_DTYPES[name][0]
    codes = np.arange(1 << fmt.bits, dtype=np.uint16 if fmt.bits > 8 else np.uint8)
    with np.errstate(invalid="ignore"):
        theirs = codes.view(dtype).astype(np.float64)
    assert_same(
        codes.astype(float), np.array([fmt.decode(code) for code in codes.tolist()]), theirs
    )


# ------------------------------------------------------------------------------------------
# gfloat


def gfloat_inputs(name: str) -> np.ndarray:
    """The inputs on which gfloat is asked: for e8m0 those within its range, see the test of its
    deviations.
    """
    x = inputs(name)
    return x[x >= 2.0**-127] if name == "e8m0fnu" else x[~np.isnan(x)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", GFLOAT)
def test_deterministic_modes_of_gfloat(name: str, mode: str) -> None:
    """RND-2, RND-4, RND-7, RND-8, RND-10: every policy that gfloat can express, by its saturation
    flag and domain.
    """
    fmt, x = FORMATS[name], gfloat_inputs(name)
    if name == "e8m0fnu" and mode == "nearest_even":
        x = x[np.frexp(x)[0] != 0.75]
    theirs = {"saturate": True, "infinity" if fmt.has_infinity else "nan": False}
    for policy in set(fmt.policies) & set(theirs):
        with np.errstate(over="ignore"):
            expected = np.asarray(
                gfloat.round_ndarray(GFLOAT[name], x, MODES[mode], theirs[policy])
            )
        assert_same(x, judged(x, fmt, mode, policy), expected)


@pytest.mark.parametrize("bits", [1, 2, 3, 8, 20])
@pytest.mark.parametrize("mode", VARIANTS)
@pytest.mark.parametrize("name", GFLOAT)
def test_stochastic_modes_of_gfloat(name: str, mode: str, bits: int) -> None:
    """RND-4, RND-7: A, B and C, where ν is short enough that gfloat's sum of ν and R in float64
    does not round.
    """
    fmt, x = FORMATS[name], in_float32(gfloat_inputs(name))
    x = x[np.abs(x) >= float(fmt.least) * 2.0**-8]
    draw = np.random.default_rng(bits)
    r = draw.integers(0, 2**bits, x.size)
    words = (r << (32 - bits)) | draw.integers(0, 2 ** (32 - bits), x.size)
    with np.errstate(over="ignore"):
        expected = np.asarray(
            gfloat.round_ndarray(GFLOAT[name], x, VARIANTS[mode], True, srbits=r, srnumbits=bits)
        )
    assert_same(x, judged(x, fmt, f"{mode}<{bits}>", "saturate", words), expected)


def test_gfloat_deviates_in_e8m0() -> None:
    """RND-5, RND-7, FMT-9: gfloat takes the code's parity on ties, and lets 0 and 2^-128
    through.
    """
    info, fmt = GFLOAT["e8m0fnu"], FORMATS["e8m0fnu"]
    assert [oracle.quantize(x, fmt) for x in (1.5, 3.0)] == [2.0, 4.0]
    assert np.asarray(gfloat.round_ndarray(info, np.array([1.5, 3.0]))).tolist() == [2.0, 2.0]
    assert oracle.quantize(2.0**-128, fmt) == 2.0**-127
    assert math.isnan(oracle.quantize(0.0, fmt))
    assert np.asarray(gfloat.round_ndarray(info, np.array([0.0, 2.0**-128]))).tolist() == [
        0.0,
        2.0**-128,
    ]


@pytest.mark.parametrize("name", [name for name in GFLOAT if name != "tf32"])
def test_codes_of_gfloat(name: str) -> None:
    """FMT-3, FMT-4, FMT-6: gfloat decodes every code of at most 16 bits to the same number."""
    fmt = FORMATS[name]
    codes = range(0, 1 << fmt.bits, 1 if fmt.bits <= 8 else 37)
    theirs = np.array([gfloat.decode_float(GFLOAT[name], code).fval for code in codes])
    assert_same(np.array(codes, float), np.array([fmt.decode(code) for code in codes]), theirs)


# ------------------------------------------------------------------------------------------
# brute force


def test_neighbours_by_enumeration() -> None:
    """RND-2, RND-3, RND-4: directed modes give the values next to x, nearest modes none further
    than another.
    """
    for name in sorted(set(SMALL) & set(spec.round_names())):
        fmt = SMALL[name]
        values = fmt.values()
        for row in spec.read_round(name):
            if not math.isfinite(row.input) or not values[0] <= Fraction(row.input) <= values[-1]:
                continue
            x = Fraction(row.input)
            below, above = (
                values[bisect.bisect_right(values, x) - 1],
                values[bisect.bisect_left(values, x)],
            )
            even, away, _, up, down, odd = map(Fraction, row.results)
            assert (up, down) == (above, below), (name, row)
            if isinstance(
                fmt, oracle.Posit | oracle.Takum | oracle.Logarithmic
            ):  # RND-12: not the nearest in value
                assert {even, away} <= {below, above}
            else:
                assert abs(even - x) == abs(away - x) == min(x - below, above - x), (name, row)
            assert odd in (below, above), (name, row)


def test_to_odd_makes_double_rounding_harmless() -> None:
    """RND-4: rounding to odd with two bits more, then to nearest, is rounding once (Boldo and
    Melquiond, 2008).
    """
    wide, narrow = oracle.Float(8, 9), oracle.Float(8, 7)
    for row in spec.read_round("bf16"):
        twice = oracle.quantize(oracle.quantize(row.input, wide, "to_odd"), narrow)
        assert_same(np.array([row.input]), np.array([twice]), np.array([row.results[0]]))


@pytest.mark.parametrize("mode", [mode for mode in oracle.DETERMINISTIC if mode != "to_odd"])
@pytest.mark.parametrize("wide", ["fp16", "bf16"])
def test_to_odd_prepares_any_mode(wide: str, mode: str) -> None:
    """RND-7: to fp16 or bf16 to odd and then to e5m2 is rounding once, at the ends of both ranges
    too, whatever the second mode.
    """
    narrow = FORMATS["e5m2"]
    edges = [float(FORMATS[wide].high) * share for share in (0.5, 1.0, 1 + 2.0**-20, 1.5, 2.0)]
    x = [*edges, *(-v for v in edges), *(row.input for row in spec.read_round("e5m2"))]
    x += [row.input for row in spec.read_round(wide)] + random_inputs(narrow, 2000)
    twice = [oracle.quantize(oracle.quantize(v, FORMATS[wide], "to_odd"), narrow, mode) for v in x]
    assert_same(np.array(x), np.array(twice), judged(np.array(x), narrow, mode, "infinity"))


def test_to_odd_at_the_ends() -> None:
    """RND-7: the odd one of max and infinity, under `infinity` alone; an infinity stays."""
    beyond = [60000.0, 65535.0, 65536.0, -65536.0]
    fmt = FORMATS["e5m2"]
    assert [oracle.quantize(x, fmt, "to_odd") for x in beyond] == [57344.0] * 3 + [-57344.0]
    assert oracle.quantize(math.inf, fmt, "to_odd") == math.inf
    assert math.isnan(oracle.quantize(65536.0, fmt, "to_odd", policy="nan"))
    for even in (oracle.Float(3, 0), FORMATS["p3109_k8p4se"]):
        assert oracle.quantize(2.0**30, even, "to_odd") == math.inf
        assert oracle.quantize(-(2.0**30), even, "to_odd") == -math.inf
    assert oracle.quantize(2.0**30, oracle.P3109(4, 2, signed=False), "to_odd") == 6.0


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_share_of_words_that_go_away(bits: int) -> None:
    """RND-4: of the 2^N values of R, A sends ⌊ν·2^N⌋ away, B that of ν + 2^-(N+1), C the nearest
    even.
    """
    unit, scale = oracle.Fixed(8, 0), 2**bits
    for nu in (Fraction(k, 128 * scale) for k in range(1, 128 * scale, 7 + scale)):
        away = {
            mode: sum(
                oracle.quantize(nu, unit, f"{mode}<{bits}>", r << (32 - bits)) == 1
                for r in range(scale)
            )
            for mode in VARIANTS
        }
        assert away == {
            "stochastic_a": math.floor(nu * scale),
            "stochastic_b": math.floor(nu * scale + Fraction(1, 2)),
            "stochastic_c": round(nu * scale),
        }


def test_parity_is_that_of_the_integer() -> None:
    """RND-5: without mantissa bits n is 1 in every binade, so that every tie goes away, save that
    below the least.
    """
    powers = oracle.Float(3, 0, specials="finite")
    assert [oracle.quantize(x, powers) for x in (0.75, 1.5, 3.0, 6.0)] == [1.0, 2.0, 4.0, 8.0]
    assert oracle.quantize(float(powers.least) / 2, powers) == 0


def test_a_codebook_without_zero() -> None:
    """RND-3, RND-6: zero counts as positive, a tie that goes to the even place, -1; toward zero
    keeps the sign.
    """
    binary = FORMATS["binary"]
    modes = dict(zip(oracle.DETERMINISTIC, (-1, 1, 1, 1, -1, 1), strict=True))
    assert {mode: oracle.quantize(-0.0, binary, mode) for mode in modes} == modes
    assert [oracle.quantize(x, binary, "toward_zero") for x in (-0.25, 0.25)] == [-1.0, 1.0]


# ------------------------------------------------------------------------------------------
# codes, idempotence


@pytest.mark.parametrize("name", SMALL)
def test_codes_come_back(name: str) -> None:
    """COD-1, COD-2: each value has one code; NaN the least positive quiet one."""
    fmt = SMALL[name]
    for code, value in fmt.codes():
        if math.isnan(value):
            assert fmt.encode(value) in fmt.nan_codes
        else:
            assert fmt.encode(value) == code
    for near in {math.nextafter(float(v), math.inf) for v in fmt.values()}:
        with pytest.raises(ValueError, match="is not in"):
            fmt.encode(near)


def test_undefined_codes() -> None:
    """FMT-3, FMT-5, FMT-7: a code that stands for nothing decodes to nothing."""
    symmetric, flushed = oracle.Fixed(8, 6, symmetric=True), oracle.Float(4, 3, subnormals=False)
    for fmt, code in ((symmetric, 0x80), (flushed, 0x07), (FORMATS["ternary"], 3)):
        with pytest.raises(ValueError, match="stands for nothing"):
            fmt.decode(code)


@pytest.mark.parametrize("name", SMALL)
def test_values_stay(name: str) -> None:
    """RND-11: every value is its own rounding, in every mode, under every policy, with any bits."""
    fmt = SMALL[name]
    modes = [(mode, 0) for mode in oracle.DETERMINISTIC] + [
        (mode, w) for mode in VARIANTS for w in (0, 2**32 - 1)
    ]
    for value in map(float, fmt.values()):
        assert {
            oracle.quantize(value, fmt, mode, word, p) for mode, word in modes for p in fmt.policies
        } == {value}


def test_blocks_twice() -> None:
    """BLK-6: symmetric blocks stay, scale and codes too; the paper's range moves the scale of the
    row it names.
    """
    for row in spec.read_blocks():
        if row.format.startswith("bfp<8") and "twos" not in row.format:
            fmt = oracle.Bfp(8, *geometry(row.format))
            again = oracle.quantize_blocks(row.output, row.shape, fmt, "nearest_even")
            assert_same(np.array(row.input), np.array(again.values), np.array(row.output))
            assert (tuple(again.codes), tuple(again.exponents)) == (row.codes, row.exponents)
    twos, example = oracle.Bfp(8, range="twos"), [-128.0, 127.0, 3.0, 5.0]
    once = oracle.quantize_blocks(example, (4,), twos)
    assert once.values == [-64.0 * 2, 64.0 * 2, 4.0, 4.0]


def geometry(text: str) -> tuple[Any, int | None]:
    """The axis and size of a block format's string."""
    axis = re.search(r"axis=(\([^)]*\)|-?\d+)", text)
    size = re.search(r"size=(\d+)", text)
    return ast.literal_eval(axis[1]) if axis else None, int(size[1]) if size else None


def test_block_geometry() -> None:
    """BLK-2, COD-4: which elements share an exponent, and the shape of the exponents."""
    ones = [1.0] * 24
    shape = (2, 3, 4)
    shapes = {
        (None, None): (1, 1, 1),
        (0, None): (2, 1, 1),
        (-1, None): (1, 1, 4),
        ((0, 2), None): (2, 1, 4),
        ((0, 1, -1), None): (1, 1, 1),
        (1, 2): (2, 2, 4),
        (-1, 3): (2, 3, 2),
    }
    assert {
        key: oracle.quantize_blocks(ones, shape, oracle.Bfp(8, *key)).exponent_shape
        for key in shapes
    } == shapes
    assert oracle.quantize_blocks(ones, (24,), oracle.Bfp(8, 0)).exponent_shape == (1,)


def test_scale_rule() -> None:
    """BLK-3, BLK-5: the binade of the greatest finite magnitude, clipped to eight bits; -128 where
    there is none.
    """
    rows = {
        (): -128,
        (0.0, math.nan): -128,
        (-3.0, math.inf): 1,
        (2.0**-200,): -128,
        (2.0**200,): 127,
    }
    assert {row: oracle.Bfp(8).scale(row) for row in rows} == rows
    assert oracle.Bfp(4).element == oracle.Fixed(4, 2, symmetric=True)
    assert oracle.Bfp(4, range="twos").element == oracle.Fixed(4, 2)


def scaled(name: str, x: list[float], policy: str | None = None) -> Any:
    """A row of numbers in a named format."""
    fmt = FORMATS[name]
    block = fmt.block_format if isinstance(fmt, oracle.Int) else fmt
    return oracle.quantize_scaled(x, (len(x),), block, policy=policy)


@pytest.mark.parametrize("special", [math.inf, -math.inf, math.nan])
def test_nonfinite_in_the_scale(special: float) -> None:
    """BLK-13, COD-4: MX and NVFP4 blocks with an infinity or NaN are NaN, by the code of their
    scale; other blocks are as without it.
    """
    for name, size, code in (("mxfp8_e4m3", 32, 255), ("mxfp4", 32, 255), ("nvfp4", 16, 0x7F)):
        with_it, without = (scaled(name, [x, *[1.0] * (2 * size - 1)]) for x in (special, 1.0))
        assert [math.isnan(v) for v in with_it.values] == [i < size for i in range(2 * size)]
        assert with_it.values[size:] == without.values[size:]
        assert with_it.scales == [code, without.scales[1]]
        assert with_it.codes[:size] == [0] * size


def test_nonfinite_at_its_place() -> None:
    """BLK-13: by the elements elsewhere, and under every policy that the caller names."""
    x = [math.inf, 1.0, -math.inf, 1.0]
    for name in ("int8", "fp8_1x128"):
        assert scaled(name, x).values == x
    assert oracle.quantize_blocks(x, (4,), oracle.Bfp(8)).values == x
    assert oracle.quantize_blocks(x, (4,), oracle.Bfp(8)).codes == [None, 64, None, 64]
    assert scaled("mxfp4", x, "propagate").values == x
    assert scaled("mxfp4", x, "saturate").values == [1.5, 1.0, -1.5, 1.0]
    assert [str(v) for v in scaled("mxfp4", x, "nan").values] == ["nan", "1.0", "nan", "1.0"]
    assert scaled("mxfp8_e5m2", x, "infinity").codes == [0x7C, 0x78, 0xFC, 0x78]
    assert all(map(math.isnan, scaled("mxfp4", [math.nan, *x], "propagate").values))
    assert scaled("mxfp4", [math.inf] * 4, "saturate").scales == [0]


def test_finite_numbers_under_a_policy() -> None:
    """BLK-13: `nan` is that of the element format where it has a NaN; else they saturate."""
    x = [7.0, 1.0]
    assert scaled("mxfp4", x, "nan").values == [6.0, 1.0]
    assert math.isnan(scaled("mxfp8_e4m3", [500.0, 1.0], "nan").values[0])


def test_rounding_by_the_binade() -> None:
    """SRC-2, SRC-3: the oracle's short cut to binary32 and the other sources gives what its search
    gives.
    """
    from oracle.binary32 import in_dtype

    draw = random.Random(0)
    for _ in range(300):
        x = (
            draw.choice((-1, 1))
            * draw.getrandbits(draw.choice((3, 24, 25, 26, 60)))
            * oracle.power(draw.randint(-200, 130))
        )
        for dtype in (oracle.BINARY32, oracle.Float(5, 10), oracle.Float(8, 7)):
            for mode in ("nearest_even", "toward_zero"):
                slow = oracle.quantize(x, dtype, mode, policy="saturate")
                assert in_dtype(x, dtype, mode == "toward_zero") == slow, (x, dtype, mode)


def test_scale_rules() -> None:
    """BLK-3, BLK-7, BLK-8: the rules at amax 448, 449 and 511 of E4M3, whose max is 448 =
    1.75·2^8.
    """
    e8m0, e4m3 = FORMATS["e8m0fnu"], FORMATS["e4m3fn"]
    powers = {"floor": (0, 0, 0), "rceil": (0, 1, 1), "ceil": (1, 1, 1), "even": (0, 0, 1)}
    for rule, expected in powers.items():
        fmt = oracle.Block(e4m3, scale=e8m0, rule=rule)
        scales = [
            oracle.quantize_scaled([x], (1,), fmt).scales[0] - 127 for x in (448.0, 449.0, 511.0)
        ]
        assert tuple(scales) == expected, rule
    thirds = oracle.quantize_scaled([1.0], (1,), oracle.Block(e4m3, scale=oracle.BINARY32))
    assert oracle.BINARY32.decode(thirds.scales[0]) == float(np.float32(1) / np.float32(448))


# ------------------------------------------------------------------------------------------
# random bits and the rest


def test_philox_known_answers() -> None:
    """RNG-1: the three philox4x32-10 lines of Random123's kat_vectors."""
    rows = spec.read_philox()
    assert len(rows) == 3
    assert all(oracle.philox(row.counter, row.key) == row.words for row in rows)


def test_streams() -> None:
    """RNG-2, RNG-3, RNG-4: layout of counters and keys, spelled out once more."""
    seed, stream = 0x0123456789ABCDEF, 0xFEDCBA9876543210
    key = oracle.philox((0x76543210, 0xFEDCBA98, 0, 0), (0x89ABCDEF, 0x01234567))[:2]
    assert oracle.stream_key(seed, stream) == key
    assert oracle.element_word(seed, stream, 9, 4 * 5 + 3) == oracle.philox((5, 9, *key), key)[3]
    assert oracle.stream_id("123456789", 7) == (0xCBF43926 << 32) | 7  # the check value of CRC-32


def test_vectors_are_what_the_generator_writes() -> None:
    """Regenerating gives identical bytes, file by file."""
    done = subprocess.run(
        [sys.executable, spec.SPEC / "generate.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_check_names_file_and_line(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed digit is found, and its line named."""
    generator = spec.generate()
    monkeypatch.setattr(generator, "VECTORS", tmp_path)
    expected = generator.roles_file().encode()
    (tmp_path / "roles.txt").write_bytes(expected.replace(b"\n1 ", b"\n2 ", 1))
    assert generator.difference("roles.txt", expected).startswith("roles.txt: line 4 is '2 ")
    (tmp_path / "roles.txt").write_bytes(expected)
    assert generator.difference("roles.txt", expected) is None
    assert generator.difference("words.txt", b"") == "words.txt: missing"
    assert generator.check({}) == ["roles.txt: not a file of the generator"]


ORACLE = sorted(
    path.relative_to(spec.SPEC).as_posix() for path in (spec.SPEC / "oracle").glob("*.py")
)
GENERATOR = sorted(
    path.relative_to(spec.SPEC).as_posix() for path in (spec.SPEC / "generator").glob("*.py")
)


@pytest.mark.parametrize(
    ("file", "own"),
    [
        *((file, set()) for file in ORACLE),
        *((file, {"oracle"}) for file in GENERATOR),
        ("generate.py", {"oracle", "generator"}),
    ],
)
def test_the_oracle_stands_alone(file: str, own: set[str]) -> None:
    """spec/ imports the standard library alone: neither qemu_swalp, which it judges, nor NumPy, nor
    a peer.
    """
    tree = ast.parse((spec.SPEC / file).read_text())
    named = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    named |= {
        node.module or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and not node.level
    }
    assert {name.split(".")[0] for name in named} <= sys.stdlib_module_names | own


@pytest.mark.parametrize("file", ORACLE)
def test_the_oracle_computes_no_logarithm(file: str) -> None:
    """RND-1: exponents come from exact arithmetic, never from log2, exp2 or frexp."""
    assert not re.search(r"\b(log\w*|exp2|frexp|ldexp)\s*\(", (spec.SPEC / file).read_text())
