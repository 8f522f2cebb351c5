"""What is rounded for a parameter, and the errors where it does not fit."""

from __future__ import annotations

import pytest

from qemu_swalp.training import Quantizer, Recipe
from qemu_swalp.training.param_plan import check_parameter, rounded_states, stores_rounded


def test_names_of_the_state_go_before_the_role_momentum() -> None:
    recipe = Recipe(momentum="bf16", state={"m": "bfp8/nearest_even", "v": "e5m2", "w": None})
    assert rounded_states(recipe, ("m", "exp_avg")) == (
        ("m", "momentum", Quantizer.parse("bfp8/nearest_even")),
        ("exp_avg", "momentum", recipe.momentum),
        ("v", "v", recipe.quantizer("v")),
    )


def test_errors_name_the_parameter_the_role_and_the_remedy() -> None:
    remedy = "or give it another recipe by an override"
    with pytest.raises(ValueError, match=f"^fc/bias, role weight: bfp<8,axis=1> .*; {remedy}$"):
        check_parameter("fc/bias", "float32", 1, Recipe("bfp<8,axis=1>"))
    with pytest.raises(TypeError, match=r"^w, role momentum: .*float16"):
        check_parameter("w", "float16", 2, Recipe(momentum="bf16"))
    states = rounded_states(Recipe(state={"v": "bf16"}), ())
    with pytest.raises(TypeError, match=r"^w, role v: .*float16"):
        check_parameter("w", "float16", 2, Recipe(), states)
    check_parameter("w", "float32", 2, Recipe("bfp<8,axis=1>", momentum="bf16"), states)


@pytest.mark.parametrize("role", ["weight", "accumulator", "momentum", "gradient", None])
def test_what_is_stored(role: str | None) -> None:
    recipe = Recipe(**({} if role is None else {role: "bf16"}))
    stored = stores_rounded(recipe, rounded_states(recipe, ("m",)))
    assert stored == (role in ("weight", "accumulator", "momentum"))
