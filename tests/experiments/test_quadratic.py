"""The 1-D theory: the table that was simulated apart from this package, and our own simulation
against both.
"""

from __future__ import annotations

import pytest

from tests.experiments.quadratic import Quadratic

# μ = 1, unit gradient noise, w* = 0.3, α = 0.01, T = 20,000, 4,000 replicas, by a script that
# shares no code with us.
TABLE = {
    2: (1.05e-1, 1.03e-3, 7.9e-3),
    4: (2.52e-2, 2.54e-4, 5.4e-4),
    6: (7.07e-3, 7.2e-5, 8.3e-5),
    8: (5.17e-3, 5.2e-5, 5.4e-5),
}
RELATIVE = (2 / 4000) ** 0.5
"""Standard error of a mean of 4,000 squares of normal numbers, relative to it."""


@pytest.mark.parametrize("fraction", TABLE)
def test_the_closed_form_agrees_with_the_table(fraction: int) -> None:
    low, averaged, bound = TABLE[fraction]
    theory = Quadratic().predict(fraction)
    assert theory["SGD-LP theory"] == pytest.approx(low, rel=3 * RELATIVE)
    assert theory["SWALP theory"] == pytest.approx(averaged, rel=3 * RELATIVE)
    assert theory["bound"] == pytest.approx(bound, rel=0.01)


def test_small_steps_leave_half_delta_times_the_mean_gradient() -> None:
    # v = δE|g|/(2μ) with E|g| = √(2(1 + v)/π), for α|g| far below δ, and so for every small α.
    for rate in (0.01, 0.001):
        v = Quadratic(rate=rate).predict(2)["SGD-LP theory"]
        assert v == pytest.approx(0.25 * (2 * (1 + v) / 3.141592653589793) ** 0.5 / 2, rel=1e-3)


def test_simulation_agrees_with_theory_within_monte_carlo_error() -> None:
    for fraction in TABLE:
        row = Quadratic(steps=4000, replicas=1000).measure(fraction)
        for method in ("SGD-LP", "SWALP"):
            assert abs(row[method] - row[f"{method} theory"]) < 4 * row[f"{method} error"], row
        assert row["SWALP"] - 3 * row["SWALP error"] < row["bound"]
        assert row["SWALP"] < row["SGD-LP"] / 10


@pytest.mark.exhaustive
def test_simulation_reproduces_the_table_in_full() -> None:
    rows = {fraction: Quadratic().measure(fraction) for fraction in TABLE}
    for fraction, (low, averaged, bound) in TABLE.items():
        row = rows[fraction]
        # Both sides carry Monte-Carlo error: √2 of one.
        assert row["SGD-LP"] == pytest.approx(low, rel=4 * 2**0.5 * RELATIVE)
        assert row["SWALP"] == pytest.approx(averaged, rel=4 * 2**0.5 * RELATIVE)
        assert row["SWALP"] < bound
    assert rows[2]["SWALP"] < rows[2]["floor"] < rows[2]["SGD-LP"]
