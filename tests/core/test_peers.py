"""Bit-for-bit agreement of `quantize` with ml_dtypes and gfloat on a large random and structured sample.

Where a peer differs, the difference is a test of its own, with the clause that decides it.
"""

from __future__ import annotations

import gfloat
import gfloat.formats
import ml_dtypes
import numpy as np
import pytest
from gfloat import RoundMode

import qemu_swalp as q

ML_DTYPES = {
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "e5m2": ml_dtypes.float8_e5m2,
    "e4m3": ml_dtypes.float8_e4m3,
    "e3m4": ml_dtypes.float8_e3m4,
    "e4m3fn": ml_dtypes.float8_e4m3fn,
    "e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "e4m3b11fnuz": ml_dtypes.float8_e4m3b11fnuz,
    "e2m3fn": ml_dtypes.float6_e2m3fn,
    "e3m2fn": ml_dtypes.float6_e3m2fn,
    "e2m1fn": ml_dtypes.float4_e2m1fn,
}
GFLOAT = {
    "fp16": gfloat.formats.format_info_binary16,
    "bf16": gfloat.formats.format_info_bfloat16,
    "e5m2": gfloat.formats.format_info_ocp_e5m2,
    "e4m3fn": gfloat.formats.format_info_ocp_e4m3,
    "e2m3fn": gfloat.formats.format_info_ocp_e2m3,
    "e3m2fn": gfloat.formats.format_info_ocp_e3m2,
    "e2m1fn": gfloat.formats.format_info_ocp_e2m1,
    "fixed<8,6>": gfloat.formats.format_info_ocp_int8,
}
MODES = {
    "nearest_even": RoundMode.TiesToEven,
    "nearest_away": RoundMode.TiesToAway,
    "toward_zero": RoundMode.TowardZero,
    "toward_positive": RoundMode.TowardPositive,
    "toward_negative": RoundMode.TowardNegative,
}
STOCHASTIC = {"a": RoundMode.StochasticFastest, "b": RoundMode.StochasticFast, "c": RoundMode.Stochastic}


def sample() -> np.ndarray:
    """Random bit patterns; random numbers of ordinary size; for each binade, its ends, halves and their neighbours."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 400_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    ordinary = (rng.standard_normal(400_000) * 2.0 ** rng.integers(-20, 20, 400_000)).astype(np.float32)
    exponents, fractions = np.arange(256, dtype=np.uint32) << 23, np.arange(0, 2**23, 2**13, dtype=np.uint32)
    edges = (exponents[:, None] | fractions | np.uint32(0)).ravel()
    edges = np.concatenate([edges, edges + 1, np.maximum(edges, 1) - 1]).astype(np.uint32)
    return np.concatenate([bits, ordinary, edges.view(np.float32), -edges.view(np.float32)])


X = sample()


def agree(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return (ours.view(np.int32) == theirs.view(np.int32)) | (np.isnan(ours) & np.isnan(theirs))


@pytest.mark.parametrize("name", ML_DTYPES)
def test_ml_dtypes(name: str) -> None:
    f = q.parse(name)
    with np.errstate(over="ignore", invalid="ignore"):
        theirs = X.astype(ML_DTYPES[name]).astype(np.float32)
    ours = q.quantize(X, name, overflow="nan" if not f.has_infinity and f.has_nan else None)  # type: ignore[attr-defined]
    same = agree(ours, theirs)
    if not f.has_nan:  # type: ignore[attr-defined]
        assert np.isnan(ours[np.isnan(X)]).all()  # RND-9; ml_dtypes gives -0 in formats without NaN
        same |= np.isnan(X)
    assert same.all(), (X[~same][:5], ours[~same][:5], theirs[~same][:5])


def test_ml_dtypes_e8m0fnu() -> None:
    """RND-4: 2^-127·(1 + ε) goes to 2^-127; ml_dtypes sends every subnormal above 2^-127 up to 2^-126."""
    with np.errstate(over="ignore", invalid="ignore"):
        theirs = X.astype(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    ours = q.quantize(X, "e8m0fnu")
    same = agree(ours, theirs)
    low = (X > 2.0**-127) & (X < 1.5 * 2.0**-127)
    assert (ours[low] == 2.0**-127).all()
    assert (theirs[low] == 2.0**-126).all()
    tie = X == 1.5 * 2.0**-127
    assert (same | low | tie).all()


@pytest.mark.parametrize(
    ("name", "saturate"),
    [*((name, True) for name in GFLOAT), *((name, False) for name in GFLOAT if q.parse(name).has_nan)],
)  # type: ignore[attr-defined]
@pytest.mark.parametrize("mode", MODES)
def test_gfloat(name: str, saturate: bool, mode: str) -> None:
    f = q.parse(name)
    x = X[~np.isnan(X)]
    if not f.has_nan or mode == "nearest_even":  # type: ignore[attr-defined]
        x = x[::5]
    policy = "saturate" if saturate else "infinity" if f.has_infinity else "nan"  # type: ignore[attr-defined]
    ours = q.quantize(x, name, mode, overflow=policy)  # type: ignore[arg-type]
    theirs = np.asarray(gfloat.round_ndarray(GFLOAT[name], x.astype(np.float64), MODES[mode], saturate)).astype(
        np.float32
    )
    same = agree(ours, theirs)
    if name.startswith("fixed"):
        same |= (ours == 0) & (theirs == 0)  # RND-10: fixed point has no -0; gfloat keeps the sign of x
    assert same.all(), (x[~same][:5], ours[~same][:5], theirs[~same][:5])


@pytest.mark.parametrize("name", ["e4m3fn", "e5m2", "bf16", "e2m1fn", "fixed<8,6>"])
@pytest.mark.parametrize("variant", STOCHASTIC)
@pytest.mark.parametrize("n", [1, 3, 8, 16])
def test_gfloat_stochastic(name: str, variant: str, n: int) -> None:
    x = X[~np.isnan(X) & (np.abs(X) < 2.0**100)][::40]
    r = np.random.default_rng(n).integers(0, 2**n, x.shape)
    ours = q.quantize(
        x, name, f"stochastic_{variant}<{n}>", random=(r << (32 - n)).astype(np.uint32), overflow="saturate"
    )
    theirs = np.asarray(
        gfloat.round_ndarray(GFLOAT[name], x.astype(np.float64), STOCHASTIC[variant], True, srbits=r, srnumbits=n)
    ).astype(np.float32)
    same = agree(ours, theirs) | ((ours == 0) & (theirs == 0) & name.startswith("fixed"))
    assert same.all(), (x[~same][:5], r[~same][:5], ours[~same][:5], theirs[~same][:5])
