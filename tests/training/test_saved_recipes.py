"""Recipes that the first drafts saved by `to_dict` are the same recipes today.

`draft_recipes.json` holds what `to_dict` of one wrote of each preset, of two functions that
make recipes, and of a recipe that uses every section; nothing writes it again.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qemu_swalp.training import Recipe, fixed_point, recipe, recipe_names, swalp

SAVED: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("draft_recipes.json").read_text(encoding="utf-8")
)
NAMES = ("forward.input", "forward.weight", "dgrad.weight", "wgrad.input")
GREW = {
    "fp8_ibm": replace(recipe("fp8_ibm"), factors=(), overrides=()),
    "nvfp4": replace(recipe("nvfp4"), transforms=(), overrides=()),
    "mxfp4": Recipe(
        operands=dict.fromkeys(NAMES, "mxfp4/nearest_even") | {"error": "mxfp4/stochastic"}
    ),
    "wage": replace(
        recipe("wage"),
        error="bfp8/nearest_even",  # type: ignore[arg-type]
        gradient="bfp8/stochastic",  # type: ignore[arg-type]
    ),
}
"""What they had of the presets that hold more of their papers today."""

MADE_TODAY = {name: recipe(name) for name in recipe_names() if name in SAVED} | {
    "swalp(4, big, average)": swalp(4, "big", average="bf16/stochastic"),
    "fixed_point(8, 6)": fixed_point(8, 6),
    "every section": Recipe(
        weight="bfp8/stochastic",
        activation="e4m3fn/nearest_even",
        error="e5m2/stochastic",
        gradient="fixed<8,6>/stochastic",
        momentum="posit<8,2>/to_odd",
        accumulator="float<6,9>/stochastic",
        average="bf16/nearest_away",
        state={"exp_avg_sq": "bf16/stochastic", "step": None},
        operands={"input": "mxfp4/stochastic", "wgrad.error": "nvfp4/stochastic"},
        sums={"wgrad.sum": "fp16/to_odd; group=4; chunk=8; total=tf32/nearest_even"},
        elementwise={"add": "bf16/nearest_even", "forward.sum": "fp16/to_odd; group=2"},
        overrides={
            "*.bias": None,
            "head.*": Recipe(weight="e4m3fn/toward_zero", elementwise="bf16/stochastic"),
        },
    ),
    **GREW,
}


def test_every_preset_of_version_0_1_is_a_preset_today() -> None:
    assert set(SAVED) == set(MADE_TODAY)
    assert len(SAVED) == 13


@pytest.mark.parametrize("name", SAVED)
def test_a_saved_recipe_is_the_same_today(name: str) -> None:
    """Presets name axes by words today; saved ones keep the numbers that they said."""
    loaded = Recipe.from_dict(SAVED[name])
    assert loaded == MADE_TODAY[name].resolve(out=0)
    assert Recipe.from_dict(json.loads(json.dumps(loaded.to_dict()))) == loaded
