"""The role that breaks training, on trainings that a given role breaks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qemu_swalp.training import SGD, Recipe, RoleStudy, find_breaking_role, swalp
from qemu_swalp.training.diagnosis import without


def descend(recipe: Recipe) -> float:
    """Distance to the optimum of a quadratic after quantized SGD."""
    optimizer = SGD(0.05, momentum=0.5, recipe=recipe)
    params = {"w": np.full(32, 3.0, np.float32)}
    state = optimizer.init(params)
    for _ in range(200):
        params, state = optimizer.update(params, {"w": params["w"] - 0.77}, state)
    return float(np.abs(params["w"] - 0.77).mean())


@pytest.mark.parametrize(
    ("coarse", "fine"), [("weight", "gradient"), ("gradient", "weight"), ("momentum", "weight")]
)
def test_it_is_found(coarse: str, fine: str) -> None:
    """Rounded up on a coarse grid a role drives training off; the others are fine enough."""
    study = find_breaking_role(
        descend, Recipe(**{coarse: "fixed<8,0>/toward_positive", fine: "fixed<24,18>"})
    )
    assert study.breaking == coarse
    assert study.recovered(coarse) > 0.9
    assert abs(study.recovered(fine)) < 0.1
    assert str(study).splitlines()[3].startswith(coarse)


def test_two_that_break_together_are_not_one() -> None:
    assert RoleStudy(2.0, 1.0, {"weight": 2.0, "gradient": 1.9}).breaking is None
    assert RoleStudy(2.0, 1.0, {"weight": 2.0, "gradient": 1.5}).breaking == "gradient"


def test_operands_state_and_overrides_are_roles_too() -> None:
    recipe = Recipe(
        operands={"error": "e5m2"},
        state={"exp_avg_sq": "bf16"},
        sums={"wgrad.sum": "fp16"},
        overrides={"head.*": Recipe(weight="bf16"), "*.bias": None},
    )
    asked: list[Recipe] = []
    study = find_breaking_role(lambda r: asked.append(r) or 1.0, recipe)  # type: ignore[func-returns-value]
    assert list(study.without) == [
        "dgrad.error",
        "wgrad.error",
        "exp_avg_sq",
        "wgrad.sum",
        "weight",
    ]
    assert asked[:2] == [recipe, Recipe()]
    assert dict(asked[2].operands).keys() == {"wgrad.error"}
    assert asked[4].state == ()
    assert asked[5].sums == ()
    assert asked[6].of("head.weight").weight is None
    assert without(recipe, "activation") == recipe


def test_diverged_runs() -> None:
    study = RoleStudy(math.nan, 1.0, {"weight": math.nan, "error": 1.5})
    assert study.breaking == "error"
    assert (study.recovered("weight"), study.recovered("error")) == (0, 1)
    study = RoleStudy(2.0, 1.0, {"weight": math.inf})
    assert study.recovered("weight") == -math.inf
    assert study.breaking is None
    assert math.isnan(RoleStudy(1.0, 1.0, {"weight": 1.0}).recovered("weight"))


def test_a_recipe_that_rounds_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="the recipe must round something"):
        find_breaking_role(lambda recipe: 0.0, Recipe())
    assert find_breaking_role(lambda recipe: 0.0, swalp(8)).breaking is None
