"""Patterns of `Recipe.overrides` that match nothing are refused, with the nearest names."""

from __future__ import annotations

import numpy as np
import pytest

from qemu_swalp.training import SGD, Recipe, recipe, swalp

NAMES = ["conv1.weight", "conv1.bias", "head.weight", "head.bias", "head.output"]
RECIPE = Recipe(
    weight="bfp8/stochastic", overrides={"*.bias": None, "head.*": Recipe(weight="bf16/stochastic")}
)


def test_patterns_that_all_match_pass() -> None:
    assert RECIPE.unmatched(NAMES) == ()
    RECIPE.check_patterns(NAMES)
    Recipe().check_patterns(())


@pytest.mark.parametrize("pattern", ["haed.*", "Head.*", "head.weights", "head"])
def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_names(pattern: str) -> None:
    recipe = Recipe(weight="bfp8/stochastic", overrides={"*.bias": None, pattern: None})
    assert recipe.unmatched(iter(NAMES)) == (pattern,)
    with pytest.raises(
        ValueError, match=f"{pattern!r} of overrides matches none of 5 names".replace("*", "\\*")
    ) as error:
        recipe.check_patterns(iter(NAMES))
    assert "head." in str(error.value)


def test_without_a_near_name_the_first_are_told() -> None:
    with pytest.raises(ValueError, match=r"nearest are conv1\.weight, conv1\.bias, head\.weight;"):
        Recipe(overrides={"zzz": None}).check_patterns(NAMES)


def test_a_pattern_behind_one_that_takes_all_its_names_still_matches() -> None:
    """It is no slip of the pen, if useless: the first that matches holds."""
    assert Recipe(overrides={"*": None, "head.*": None}).unmatched(NAMES) == ()


def test_without_any_names_the_error_says_so() -> None:
    with pytest.raises(ValueError, match="matches none of 0 names"):
        RECIPE.check_patterns([])


def test_sgd_refuses_what_it_would_pass_over() -> None:
    params = {"w": np.zeros(2, np.float32)}
    with pytest.raises(
        ValueError, match="'v' of overrides matches none of 1 names; the nearest are w"
    ):
        SGD(0.1, recipe=Recipe(weight="bfp8/stochastic", overrides={"v": None})).init(params)
    shared = Recipe(
        weight="bfp8/stochastic", activation="bfp8/stochastic", overrides={"relu.output": None}
    )
    assert SGD(0.1, recipe=shared).init(params).step == 0
    with pytest.raises(ValueError, match="SGD applies the section 'optimizer'"):
        SGD(0.1, recipe=recipe("mxfp8"))


def test_sgd_knows_presets_by_name() -> None:
    assert SGD(0.1, recipe="swalp8").recipe == swalp(8)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="recipe must be"):
        SGD(0.1, recipe=3)  # type: ignore[arg-type]
