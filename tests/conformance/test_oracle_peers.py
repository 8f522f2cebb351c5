"""The oracle judged by published numbers, by ml_dtypes and gfloat.

Where a peer deviates from semantics.md, a test states the deviation, so that a changed peer is
noticed.
"""

from __future__ import annotations

import math

import gfloat  # type: ignore[import-untyped]
import gfloat.formats  # type: ignore[import-untyped]
import ml_dtypes
import numpy as np
import pytest

from tests.conformance import spec
from tests.conformance.judging import assert_same, in_float32, inputs, judged
from tests.helpers.peers import GFLOAT, ML_DTYPES, MODES, VARIANTS

oracle = spec.oracle()
FORMATS = spec.formats()
FLOATS = {name: fmt for name, fmt in spec.formats().items() if isinstance(fmt, oracle.Float)}


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
