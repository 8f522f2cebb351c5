"""Patterns of `Recipe.overrides` that match nothing are refused, with the nearest names."""

from __future__ import annotations

import pytest

from qemu_swalp.training import Recipe

NAMES = ["conv1.weight", "conv1.bias", "head.weight", "head.bias", "head.output"]
RECIPE = Recipe(weight="bfp8", overrides={"*.bias": None, "head.*": Recipe(weight="bf16")})


def test_patterns_that_all_match_pass() -> None:
    assert RECIPE.unmatched(NAMES) == ()
    RECIPE.check_patterns(NAMES)
    Recipe().check_patterns(())


@pytest.mark.parametrize("pattern", ["haed.*", "Head.*", "head.weights", "head"])
def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_names(pattern: str) -> None:
    recipe = Recipe(weight="bfp8", overrides={"*.bias": None, pattern: None})
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
