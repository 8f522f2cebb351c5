"""Bit-for-bit agreement of `quantize` with ml_dtypes and gfloat on a large random and structured
sample.

Where a peer differs, the difference is a test of its own, with the clause that decides it.
"""

from __future__ import annotations

import gfloat
import numpy as np
import pytest

import qemu_swalp as q
from tests.helpers.peers import GFLOAT, ML_DTYPES, MODES, VARIANTS

# e8m0fnu: ml_dtypes has a test of its own below, gfloat in tests/conformance.
GFLOAT = {name.replace("fixed8_6", "fixed<8,6>"): info for name, info in GFLOAT.items()}
NAMES = [name for name in GFLOAT if name != "e8m0fnu"]
OVERFLOWING = [name for name in NAMES if q.parse(name).has_nan]  # type: ignore[attr-defined]


def sample() -> np.ndarray:
    """Random bit patterns; random numbers of ordinary size; for each binade, its ends, halves and
    their neighbours.
    """
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 400_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    ordinary = (rng.standard_normal(400_000) * 2.0 ** rng.integers(-20, 20, 400_000)).astype(
        np.float32
    )
    exponents, fractions = (
        np.arange(256, dtype=np.uint32) << 23,
        np.arange(0, 2**23, 2**13, dtype=np.uint32),
    )
    edges = (exponents[:, None] | fractions | np.uint32(0)).ravel()
    edges = np.concatenate([edges, edges + 1, np.maximum(edges, 1) - 1]).astype(np.uint32)
    return np.concatenate([bits, ordinary, edges.view(np.float32), -edges.view(np.float32)])


X = sample()


def agree(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return (ours.view(np.int32) == theirs.view(np.int32)) | (np.isnan(ours) & np.isnan(theirs))


@pytest.mark.parametrize("name", [name for name in ML_DTYPES if name != "e8m0fnu"])
def test_ml_dtypes(name: str) -> None:
    f, (dtype, policy) = q.parse(name), ML_DTYPES[name]
    with np.errstate(over="ignore", invalid="ignore"):
        theirs = X.astype(dtype).astype(np.float32)
    ours = q.quantize(X, name, overflow=policy)  # type: ignore[arg-type]
    same = agree(ours, theirs)
    if not f.has_nan:  # type: ignore[attr-defined]
        assert np.isnan(ours[np.isnan(X)]).all()  # RND-9; ml_dtypes gives -0 in formats without NaN
        same |= np.isnan(X)
    assert same.all(), (X[~same][:5], ours[~same][:5], theirs[~same][:5])


def test_ml_dtypes_e8m0fnu() -> None:
    """RND-4: 2^-127·(1 + ε) goes to 2^-127; ml_dtypes sends every subnormal above 2^-127 up to
    2^-126.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        theirs = X.astype(ML_DTYPES["e8m0fnu"][0]).astype(np.float32)
    ours = q.quantize(X, "e8m0fnu")
    same = agree(ours, theirs)
    low = (X > 2.0**-127) & (X < 1.5 * 2.0**-127)
    assert (ours[low] == 2.0**-127).all()
    assert (theirs[low] == 2.0**-126).all()
    tie = X == 1.5 * 2.0**-127
    assert (same | low | tie).all()


@pytest.mark.parametrize(
    ("name", "saturate"),
    [*((name, True) for name in NAMES), *((name, False) for name in OVERFLOWING)],
)
@pytest.mark.parametrize("mode", MODES)
def test_gfloat(name: str, saturate: bool, mode: str) -> None:
    """Formats without NaN only saturate: gfloat refuses to overflow in them."""
    x = X[~np.isnan(X)][::3]
    infinite = q.parse(name).has_infinity  # type: ignore[attr-defined]
    ours = q.quantize(
        x, name, mode, overflow="saturate" if saturate else "infinity" if infinite else "nan"
    )
    compare(
        name,
        x,
        ours,
        gfloat.round_ndarray(GFLOAT[name], x.astype(np.float64), MODES[mode], saturate),
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("n", [1, 3, 8, 16])
def test_gfloat_stochastic(name: str, variant: str, n: int) -> None:
    x = X[~np.isnan(X) & (np.abs(X) < 2.0**100)][::40]
    r = np.random.default_rng(n).integers(0, 2**n, x.shape)
    words = (r << (32 - n)).astype(np.uint32)
    ours = q.quantize(x, name, f"{variant}<{n}>", random=words, overflow="saturate")
    x64 = x.astype(np.float64)
    compare(
        name,
        x,
        ours,
        gfloat.round_ndarray(GFLOAT[name], x64, VARIANTS[variant], True, srbits=r, srnumbits=n),
    )


def compare(name: str, x: np.ndarray, ours: np.ndarray, theirs: object) -> None:
    """Equal bits, save that by RND-10 fixed point has no -0, where gfloat keeps the sign of x."""
    expected = np.asarray(theirs).astype(np.float32)
    same = agree(ours, expected)
    if name == "fixed<8,6>":
        same |= (ours == 0) & (expected == 0)
    assert same.all(), (x[~same][:5], ours[~same][:5], expected[~same][:5])
