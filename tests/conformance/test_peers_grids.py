"""Bit-for-bit agreement of the P3109 formats, posits and codes with gfloat, pychop, softposit and
ml_dtypes.

Where a peer differs, the difference is a test of its own, with the clause that decides it. pychop
(many dependencies) and softposit (a compiler) are no part of the `test` extra; without them their
tests are skipped by name.
"""

from __future__ import annotations

from typing import Any

import gfloat
import ml_dtypes
import numpy as np
import pytest
from gfloat.formats import format_info_p3109
from gfloat.types import Domain, Signedness

import qemu_swalp as q
from tests.helpers.backends import same_bits
from tests.helpers.peers import MODES, VARIANTS

P3109 = [
    q.P3109(k, p, signed, domain)
    for k in range(3, 17)
    for p in range(1, k + 1)
    for signed in (True, False)
    for domain in ("extended", "finite")
    if p <= k - signed and k - p + (not signed) <= 10
]
"""All but those of 11 exponent bits, which neither peer has."""


def gfloat_format(f: q.P3109) -> Any:
    return format_info_p3109(
        f.k,
        f.p,
        Signedness.Signed if f.signed else Signedness.Unsigned,
        Domain.Extended if f.domain == "extended" else Domain.Finite,
    )


def sample(f: q.P3109, count: int = 400) -> np.ndarray:
    """Numbers of p + 3 bits in every binade and beyond, so that ties are many; the ends of the
    range.
    """
    rng = np.random.default_rng(f.k * 100 + f.p)
    binades = np.clip(rng.integers(-f.bias - f.p - 2, f.bias + 3, count), -1060, 1015)
    x = np.ldexp(rng.integers(1 << f.p, 1 << (f.p + 3), count) / 2.0**f.p, binades)
    ends = [
        f.max,
        f.max * (1 + 2.0**-30),
        f.max * 3,
        f.min_positive,
        f.min_positive / 2,
        f.min_positive * 0.75,
        0.0,
    ]
    return np.concatenate([x, -x[::3], ends, [-v for v in ends], [np.inf, -np.inf]])


def assert_same(f: object, x: np.ndarray, ours: np.ndarray, theirs: Any) -> None:
    theirs = np.asarray(theirs)
    same = same_bits(ours, theirs)
    assert same.all(), (str(f), x[~same][:4], ours[~same][:4], theirs[~same][:4])


@pytest.mark.parametrize("mode", MODES)
def test_gfloat(mode: str) -> None:
    """FMT-11, RND-5, RND-7: every format, SatFinite and SatNone; of unsigned ones the numbers from
    0 on.
    """
    for f in P3109:
        x = sample(f)
        x = x if f.signed else x[x >= 0]
        for saturation in ("SatFinite", "SatNone"):
            ours = q.quantize(x, f, mode, overflow=f.overflow_of(saturation))
            with np.errstate(over="ignore", invalid="ignore"):
                theirs = gfloat.round_ndarray(
                    gfloat_format(f), x, MODES[mode], saturation == "SatFinite"
                )
            assert_same(f, x, ours, theirs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gfloat_stochastic(variant: str) -> None:
    for f in P3109[::3]:
        x = sample(f)
        x = x if f.signed else x[x >= 0]
        for bits in (1, 5, 16):
            r = np.random.default_rng(bits).integers(0, 2**bits, x.shape)
            words = (r << (32 - bits)).astype(np.uint32)
            ours = q.quantize(x, f, f"{variant}<{bits}>", random=words, overflow="saturate")
            assert_same(
                f,
                x,
                ours,
                gfloat.round_ndarray(gfloat_format(f), x, VARIANTS[variant], True, r, bits),
            )


def test_gfloat_codes() -> None:
    """FMT-11, COD-1: every code of every format of at most eight bits."""
    for f in [f for f in P3109 if f.k <= 8]:
        codes = np.arange(1 << f.k, dtype=np.uint8)
        theirs = np.array(
            [gfloat.decode_float(gfloat_format(f), code).fval for code in codes.tolist()]
        )
        assert_same(f, codes, q.decode(codes, f, "float64"), theirs)
        assert (q.encode(theirs, f) == codes).all()


def test_pychop() -> None:
    """FMT-11, RND-4, RND-7: six modes, three saturation modes, A, B and C with one to 32 bits,
    codes both ways.
    """
    pychop = pytest.importorskip(
        "pychop.p3109", reason="pychop (with pandas, dask) is not installed"
    )
    for f in P3109:
        theirs, x = pychop.P3109Format(f.k, f.p, f.signed, f.domain), sample(f, 150)
        for mode in (*MODES, "to_odd"):
            for saturation in f.saturation_modes:
                if (
                    mode == "to_odd"
                    and saturation == "SatNone"
                    and f.domain == "extended"
                    and not f.signed
                ):
                    continue  # the next test
                expected = pychop.p3109_quantize(
                    x, theirs, rounding=mode, saturate=saturation[3:].lower()
                )
                assert_same(
                    f, x, q.quantize(x, f, mode, overflow=f.overflow_of(saturation)), expected
                )
        for variant in VARIANTS:
            for bits in (1, 3, 8, 17, 32):
                r = np.random.default_rng(bits).integers(0, 2**bits, x.shape)
                given = {"saturate": "finite", "srbits": r, "srnumbits": bits}
                expected = pychop.p3109_quantize(x, theirs, rounding=variant, **given)
                words = (r << (32 - bits)).astype(np.uint32)
                ours = q.quantize(x, f, f"{variant}<{bits}>", random=words, overflow="saturate")
                assert_same(f, x, ours, expected)
        codes = np.arange(1 << f.k, dtype=np.uint16)
        assert_same(f, codes, q.decode(codes, f, "float64"), pychop.p3109_decode(codes, theirs))
        assert (q.encode(q.decode(codes, f, "float64"), f) == codes).all()


def test_pychop_rounds_to_an_even_infinity() -> None:
    """RND-7: to odd in unsigned extended formats: max has an odd code, infinity an even one; the
    draft stays at max.
    """
    pychop = pytest.importorskip(
        "pychop.p3109", reason="pychop (with pandas, dask) is not installed"
    )
    f = q.P3109(5, 3, signed=False)
    assert q.encode([f.max], f).item() % 2 == 1
    assert q.quantize([100.0], f, "to_odd").tolist() == [f.max] == [10.0]
    theirs = pychop.P3109Format(5, 3, False, "extended")
    assert pychop.p3109_quantize([100.0], theirs, rounding="to_odd").tolist() == [np.inf]


def softposit_formats(softposit: Any) -> list[tuple[str, Any]]:
    """Our names, and a function that rounds a Python float there."""
    found = [
        ("posit<8,0>", lambda v: softposit.convertP8ToDouble(softposit.convertDoubleToP8(v))),
        ("posit<16,1>", lambda v: softposit.convertP16ToDouble(softposit.convertDoubleToP16(v))),
    ]
    for n in range(2, 17):
        found.append(
            (
                f"posit<{n},2>",
                lambda v, n=n: softposit.convertPX2ToDouble(softposit.convertDoubleToPX2(v, n)),
            )
        )
    return found


def test_softposit() -> None:
    """FMT-12, RND-12: rounding by the standard, the cut exponents at both ends included."""
    softposit = pytest.importorskip(
        "softposit", reason="softposit (built by a C++ compiler) is not installed"
    )
    rng = np.random.default_rng(0)
    for name, rounded in softposit_formats(softposit):
        f = q.parse(name)
        marks = np.array(f.values())[:: max(f.value_count // 500, 1)]
        middles = marks[1:] / 2 + marks[:-1] / 2
        near = [np.nextafter(v, d) for v in (marks, middles) for d in (-np.inf, np.inf)]
        far = rng.standard_normal(2000) * 2.0 ** rng.integers(-70, 70, 2000)
        x = np.concatenate([marks, middles, *near, far, f.max * np.array([1.5, -1e9])])
        assert_same(f, x, q.quantize(x, f), np.array([rounded(v) for v in x.tolist()]))


def test_the_nearest_posit_is_not_the_nearest_number() -> None:
    """RND-12: 144179.2 lies nearer to 65536 than to 262144, but beyond 131072, the posit of nine
    bits between them.
    """
    assert q.quantize(np.float64([144179.2, 131072.0, 131071.0]), "posit8").tolist() == [
        262144.0,
        65536.0,
        65536.0,
    ]


@pytest.mark.parametrize("name", ["p3109_k8p4sf", "p3109_k8p3sf"])
def test_p3109_finite_is_fnuz(name: str) -> None:
    """FMT-11: Binary8p4sf and Binary8p3sf have the codes of float8_e4m3fnuz and float8_e5m2fnuz."""
    dtype = {"p3109_k8p4sf": ml_dtypes.float8_e4m3fnuz, "p3109_k8p3sf": ml_dtypes.float8_e5m2fnuz}[
        name
    ]
    codes = np.arange(256, dtype=np.uint8)
    assert_same(name, codes, q.decode(codes, name), codes.view(dtype).astype(np.float32))
