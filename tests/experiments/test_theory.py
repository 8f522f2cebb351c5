"""The direction of each claim of the theory, and of each condition that fails, at fixed seeds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qemu_swalp.experiments.common.report import progress, summarize
from qemu_swalp.experiments.theory.cases import OPTIMUM, cases, rows_of
from qemu_swalp.experiments.theory.settings import Settings
from qemu_swalp.experiments.theory.tables import bound, floor, slopes

SETTINGS = Settings(
    steps=3000,
    replicas=100,
    seeds=2,
    learning_rate=0.02,
    random_bits=(3, 32),
    fractions=(2, 5),
    words=(4,),
)
LONG = replace(SETTINGS, learning_rate=0.05)
"""For 32 random bits: averages are below the floor after so many steps."""
Figures = dict[tuple[str, str, str, str], tuple[float, float]]


@pytest.fixture(scope="module")
def summary() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with progress(1, silent=True) as bar:
        for case in cases(SETTINGS):
            rows += rows_of(case, LONG if "<32>" in case.rounding else SETTINGS, bar)
    return summarize(
        rows, ("part", "numbers", "rounding", "weights", "method"), ("distance", "bias")
    )


@pytest.fixture(scope="module")
def figures(summary: list[dict[str, Any]]) -> Figures:
    """(numbers, rounding, weights, method) → distance and bias."""
    return {
        (row["part"] + ": " + row["numbers"], row["rounding"], row["weights"], row["method"]): (
            row["distance"]["mean"],
            row["bias"]["mean"],
        )
        for row in summary
    }


FIXED = "1: fixed<24,2>"


@pytest.mark.parametrize("mode", ["a", "b", "c"])
def test_with_many_random_bits_the_average_goes_below_the_floor(
    mode: str, figures: Figures
) -> None:
    low, _ = (
        figures[FIXED, f"stochastic_{mode}<32>", "", "SGD-LP"]
        if False
        else figures[FIXED, _named(mode, 32), "", "SGD-LP"]
    )
    average, bias = figures[FIXED, _named(mode, 32), "", "SWALP"]
    assert average < floor(SETTINGS) < low / 10
    assert average < bound(LONG)
    assert abs(bias) < 0.02


def _named(mode: str, bits: int) -> str:
    return f"stochastic_{mode}<{bits}>"


def test_with_few_random_bits_stochastic_a_is_biased_toward_zero(figures: Figures) -> None:
    # What no random bit sees never rounds up: the equilibrium shifts, and no average mends it.
    average, bias = figures[FIXED, _named("a", 3), "", "SWALP"]
    assert average > 10 * floor(SETTINGS)
    assert bias < -0.1
    for mode in "bc":
        assert figures[FIXED, _named(mode, 3), "", "SWALP"][0] < average / 3


def test_rounded_to_nearest_small_steps_vanish(figures: Figures) -> None:
    distance, bias = figures[FIXED, "nearest_even", "", "SGD-LP"]
    assert distance == pytest.approx(OPTIMUM**2)  # w_0 = 0 is never left
    assert bias == pytest.approx(-OPTIMUM)


def test_the_iterate_falls_with_delta_and_the_bias_with_its_square(
    summary: list[dict[str, Any]],
) -> None:
    found = slopes(SETTINGS, summary)
    assert 0.7 < found["SGD-LP"] < 1.3
    assert 1.5 < found["SWALP"] < 2.6
    assert found["SWALP"] > found["SGD-LP"] + 0.5


def test_small_weights_gain_by_an_exponent_of_their_own(figures: Figures) -> None:
    def distance(block: str, weights: str) -> float:
        return figures[f"3: 4 bits, {block} blocks", "stochastic_a", weights, "SGD-LP"][0]

    assert distance("small", "small weights") < 0.6 * distance("big", "small weights")
    assert distance("small", "large weights") == pytest.approx(
        distance("big", "large weights"), rel=0.1
    )


def test_the_first_seeds_are_the_same_however_many_follow() -> None:
    case = next(case for case in cases(SETTINGS) if case.quantizer is None)
    with progress(1, silent=True) as bar:
        few, more = (
            list(rows_of(case, Settings(steps=20, replicas=10, seeds=seeds), bar))
            for seeds in (1, 2)
        )
    assert few == [row for row in more if row["seed"] == 0]
    assert not np.isclose(more[0]["distance"], more[1]["distance"])
