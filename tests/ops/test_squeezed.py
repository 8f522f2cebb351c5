"""Formats after a shift and a squeeze of logarithms: S2FP8 (FMT-15)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import qemu_swalp as q
from qemu_swalp.cli import main
from tests.helpers.backends import Backend

E5M2 = np.array([v for v in q.parse("e5m2").values() if 0 <= v < np.inf])  # type: ignore[attr-defined]


def published(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equations 1 to 5 of Cambier et al. in float64; and how far |y| is from the nearest tie."""
    wide = x.astype(np.float64)
    logs = np.log2(np.abs(wide[wide != 0]))
    alpha = 15 / (logs.max() - logs.mean())
    beta = -alpha * logs.mean()
    y = np.exp2(beta) * np.abs(wide) ** alpha
    ties = (E5M2[1:] + E5M2[:-1]) / 2
    distance = np.abs(y[..., None] / ties - 1).min(-1)
    nearest = E5M2[np.searchsorted(ties, y)]
    return np.sign(wide) * (np.exp2(-beta) * nearest) ** (1 / alpha), distance


magnitudes = st.floats(-12, 12).map(lambda e: float(np.float32(10.0**e)))
numbers = st.builds(lambda m, sign: m * sign, magnitudes, st.sampled_from([-1.0, 1.0, 0.0]))


@settings(max_examples=100)
@given(arrays(np.float64, array_shapes(max_dims=3, max_side=6), elements=numbers))
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-10)])
def test_it_is_the_papers(dtype: str, tolerance: float, x: np.ndarray) -> None:
    x = x.astype(dtype)
    found = q.quantize(x, "s2fp8")
    logs = np.log2(np.abs(x[x != 0]).astype(np.float64))
    if logs.size == 0 or logs.max() - logs.mean() < 1:  # near-equal ones amplify every error
        return
    expected, distance = published(x)
    near = distance < 1000 * tolerance
    np.testing.assert_allclose(found[~near], expected[~near], rtol=tolerance)


def test_libraries_agree(backend: Backend) -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(999) * np.exp(3 * rng.standard_normal(999))).astype(np.float32)
    x[:4] = [0, -0.0, np.inf, np.nan]
    expected = q.quantize(x, "s2fp8")
    found = np.asarray(
        backend.numpy(backend.call(lambda a: q.quantize(a, "s2fp8"), backend.array(x)))
    )
    assert np.signbit(found[:4]).tolist() == [False, True, False, np.signbit(found[3])]
    apart = ~np.isclose(found, expected, rtol=3e-5, atol=0, equal_nan=True)
    assert apart.sum() <= 1  # one that is next to a tie


@pytest.mark.parametrize("x", [[], 3.3, [2.0, -2.0, 0.0, 2.0], [0.0, -0.0], [1e-42, 1e-42]])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_what_has_no_spread_stays(x: Any, dtype: str) -> None:
    array = np.asarray(x, dtype)
    found = q.quantize(array, "s2fp8")
    assert found.tobytes() == array.tobytes()
    assert found.shape == array.shape


def test_the_greatest_and_the_range_of_subnormal_numbers() -> None:
    x = np.float32([1e-44, 1e-40, 3e-39, 1e30])
    found = q.quantize(x, "s2fp8")
    assert (found > x / 4).all()
    assert (found < 4 * x).all()
    np.testing.assert_allclose(found[-1], x[-1], rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_greatest_number_stays_finite(dtype: str) -> None:
    most = np.finfo(dtype).max
    x = np.array([most, -most, 1.0, 1e-3], dtype)
    np.testing.assert_allclose(q.quantize(x, "s2fp8")[:2], x[:2], rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("format", ["squeezed<e5m2,top=57344>", "squeezed<e4m3fn,top=448>"])
def test_the_greatest_magnitude_is_top(format: str, dtype: str) -> None:
    """Exactly, where the top is the greatest element: no rounding takes it beyond, or below."""
    rng = np.random.default_rng(5)
    for _ in range(30):
        x = np.exp(2 * rng.standard_normal(40)).astype(dtype)
        for rounding in ("toward_positive", "toward_negative", "toward_zero", "to_odd"):
            for sign in (1, -1):
                found = q.quantize(sign * x, format, rounding)
                np.testing.assert_allclose(found[x.argmax()], sign * x.max(), rtol=1e-3)


def test_stochastic_is_unbiased_on_the_far_side() -> None:
    x = np.float64([*np.full(20_000, 0.3), 1e-3, 5.0])
    found = q.quantize(x, "s2fp8", "stochastic", random=q.RandomBits(0))[:20_000]
    logs = np.log(x)
    power = 15 * np.log(2) / (logs.max() - logs.mean())
    y, back = np.exp(power * (logs[0] - logs.mean())), np.exp(power * (np.log(found) - logs.mean()))
    assert len(np.unique(found)) == 2
    assert abs(back.mean() / y - 1) < 0.01


def test_infinities_stay_unless_asked_for() -> None:
    x = np.float32([1.0, 1e-3, np.inf, -np.inf])
    assert q.quantize(x, "s2fp8")[2:].tolist() == [np.inf, -np.inf]
    assert np.isfinite(q.quantize(x, "s2fp8", overflow="saturate")).all()
    assert np.isnan(q.quantize(x, "squeezed<e4m3fn,top=256>")[2:]).all()  # has no infinity


def test_strings_and_errors() -> None:
    assert str(q.parse("S2FP8")) == "squeezed<e5m2>"
    assert q.parse("squeezed<e4m3fn,top=256>") == q.Squeezed("e4m3fn", 256)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="element must be a format of binades with a sign"):
        q.parse("squeezed<nf4>")
    with pytest.raises(ValueError, match="top must be a number of float32 above 1 and up to 448"):
        q.parse("squeezed<e4m3fn>")
    x = np.float32([1.0, 2.0])
    for call in (
        lambda: q.encode(x, "s2fp8", "nearest_even"),
        lambda: q.decode(np.uint8([1]), "s2fp8"),
        lambda: q.quantize_state_dict({"w": x}, "s2fp8"),
    ):
        with pytest.raises(ValueError, match="squeezed<e5m2> has no integer codes"):
            call()
    with pytest.raises(ValueError, match="has no scales"):
        q.quantize(x, "s2fp8", scales=1.0)
    with pytest.raises(ValueError, match="must be of an element format"):
        q.add(x, x, "s2fp8")


def test_figures_and_commands_know_it(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    x = np.float32(np.random.default_rng(0).standard_normal(1000))
    figures = q.analyze(x, "s2fp8")
    assert figures.sqnr_db > 19
    assert figures.saturated == 0
    assert figures.stored_bytes == 1008
    assert main(["show", "s2fp8"]) == 0
    shown = capsys.readouterr().out
    assert "squeezed<e5m2>" in shown
    assert "no kernel has squeezed formats" in shown
    np.save(tmp_path / "x.npy", x)
    assert main(["compare", "s2fp8", "e5m2", "--file", str(tmp_path / "x.npy")]) == 0
    assert main(["vectors", "s2fp8", "--out", str(tmp_path / "v.json")]) == 2
    assert "has no integer codes" in capsys.readouterr().err
