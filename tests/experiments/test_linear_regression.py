"""Least squares: SWALP goes below the quantization floor, SGD-LP stays above it."""

from __future__ import annotations

import numpy as np
import pytest

from qemu_swalp import Fixed, quantize
from qemu_swalp.experiments.linear_regression import Problem, Settings, run


def small(**changes: object) -> Settings:
    return Settings(
        **(
            {"fractions": (4,), "steps": 4000, "dimension": 32, "samples": 512, "seeds": 4}
            | changes
        )
    )


def test_swalp_goes_below_the_floor_and_low_precision_sgd_does_not() -> None:
    outcome = run(small())
    row = outcome.curves["limits"][0]
    means = {entry["method"]: entry["distance"] for entry in outcome.summary}
    spread = means["SGD-LP"]["std"] + means["SWALP"]["std"]
    assert means["SGD-LP"]["mean"] - means["SWALP"]["mean"] > 3 * spread
    assert (
        means["SWALP"]["mean"] + 3 * means["SWALP"]["std"]
        < row["floor"]
        < means["SGD-LP"]["mean"] - 3 * spread
    )
    assert means["SWALP"]["mean"] < row["bound"]
    assert means["SWA"]["mean"] < means["SWALP"]["mean"]


def test_the_average_keeps_falling_while_the_iterate_stalls() -> None:
    curve = run(small()).curves["distance"]["fixed<6,4>"]
    at = {step: i for i, step in enumerate(curve["step"])}
    half = min(at, key=lambda step: abs(step - 1000))
    assert curve["average"][-1] < curve["average"][at[half]] / 2.5
    assert curve["iterate"][-1] > curve["iterate"][at[half]] / 2


def test_the_problem_is_what_it_says() -> None:
    problem = Problem(small())
    x, y = problem.x.astype(np.float64), problem.y.astype(np.float64)
    assert np.abs(x.T @ (x @ problem.optimum - y)).max() < 1e-9
    batch = np.arange(512)[None]
    weight = np.ones((1, 32), np.float32)
    expected = x.T @ (x @ np.ones(32) - y) / 512
    assert np.allclose(problem.gradient(weight, batch)[0], expected, rtol=1e-4, atol=1e-4)
    format = Fixed(6, 4)
    assert problem.floor(format) == pytest.approx(
        np.sum((quantize(problem.optimum, format) - problem.optimum) ** 2)
    )
    assert problem.bound(format, 0.05, 1e9) < 1e-6


def test_more_samples_than_weights_are_needed() -> None:
    with pytest.raises(
        ValueError, match="--samples must exceed --dimension for a unique optimum, got 16 and 32"
    ):
        Problem(small(samples=16))
