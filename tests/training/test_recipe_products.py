"""Transforms and factors of products, and layers by position."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from qemu_swalp import Hadamard
from qemu_swalp.training import FULL_PRECISION, OPERANDS, Recipe
from qemu_swalp.training.diagnosis import without

FP4 = {"input": "mxfp4", "weight": "mxfp4", "error": "mxfp4/stochastic"}


def test_one_transform_stands_for_all_products_with_a_rounded_operand() -> None:
    recipe = Recipe(
        operands={"dgrad.error": "mxfp4", "wgrad.input": "mxfp4"}, transforms="hadamard<8>"
    )
    assert recipe.transforms == (("dgrad", Hadamard(8)), ("wgrad", Hadamard(8)))
    assert recipe.transform("forward") is None


def test_names_of_operands_stand_for_both_products() -> None:
    recipe = Recipe(operands=FP4, factors={"error": "3/4", "dgrad.error": 0.5})
    assert dict(recipe.factors) == {"dgrad.error": 0.5, "wgrad.error": 0.75}
    assert [recipe.factor(name) for name in OPERANDS] == [1, 1, 0.5, 1, 0.75, 1]
    half = Recipe(operands={"wgrad.error": "mxfp4"}, factors={"error": 2})
    assert half.factors == (("wgrad.error", 2.0),)


def test_they_are_saved_and_shown() -> None:
    recipe = Recipe(
        operands=FP4,
        transforms={"wgrad": "hadamard<16,signs=random>"},
        factors={"wgrad.error": 0.75},
        overrides={"@layers[-1]": None},
    )
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    shown = str(recipe)
    assert "wgrad.transform" in shown
    assert "hadamard<16,signs=random>" in shown
    assert "wgrad.error (factor=0.75)" in shown
    assert "@layers[-1]" in shown


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"transforms": {"forwards": "hadamard<4>"}}, "'forward'"),
        ({"transforms": {"forward": "hadamard<5>"}}, "power of two"),
        ({"transforms": {"wgrad": "hadamard<4>"}}, "rounds no operand"),
        ({"factors": {"error": 2}}, "does not round this operand"),
        ({"factors": {"inptu": 2}}, "did you mean 'input'"),
        *(
            ({"factors": {"input": bad}}, "positive number")
            for bad in (0, -1, math.inf, "x", "1/0")
        ),
    ],
)
def test_what_cannot_be_applied_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Recipe(operands={"forward.input": "mxfp4"}, **options)


def test_a_role_is_taken_out_with_its_factor_and_transform() -> None:
    recipe = Recipe(
        operands={"wgrad.error": "mxfp4"}, transforms="hadamard<4>", factors={"error": 2}
    )
    assert without(recipe, "wgrad.error") == FULL_PRECISION


@pytest.mark.parametrize(
    ("position", "names"),
    [
        ("@layers[0]", "a"),
        ("@layers[-1]", "g"),
        ("@layers[:2]", "ab"),
        ("@layers[-15%:]", "g"),
        ("@layers[-30%:]", "fg"),
        ("@layers[-2%:]", ""),
        ("@layers[:1%]", ""),
        ("@layers[:100%]", "abcdefg"),
        ("@layers[-9:1]", "a"),
        ("@layers[2:-3]", "cd"),
        ("@layers[:]", "abcdefg"),
    ],
)
def test_positions_are_pythons(position: str, names: str) -> None:
    recipe = Recipe(operands=FP4, overrides={"x": None, position: FULL_PRECISION, "*.b": None})
    placed = recipe.at_layers(list("abcdefg"))
    assert [pattern for pattern, _ in placed.overrides] == ["x", *(f"{n}.*" for n in names), "*.b"]


def test_a_layers_name_is_no_pattern() -> None:
    recipe = Recipe(operands=FP4, overrides={"@layers[0]": None}).at_layers(["a[0]*"])
    assert recipe.of("a[0]*.kernel") is FULL_PRECISION
    assert recipe.of("a0b.kernel").operands


@pytest.mark.parametrize(
    "position",
    ["@layers", "@layers[]", "@layer[0]", "@layers[a]", "@layers[15%]", "@layers[1 2]", "@"],
)
def test_what_is_no_position_is_refused(position: str) -> None:
    with pytest.raises(ValueError, match="positions look like"):
        Recipe(operands=FP4, overrides={position: None})


def test_positions_without_a_model_are_refused() -> None:
    recipe = Recipe(operands=FP4, overrides={"@layers[3]": None})
    for call in (lambda: recipe.of("a"), lambda: recipe.check_patterns(["a"])):
        with pytest.raises(ValueError, match="a call that sees the model"):
            call()
    with pytest.raises(ValueError, match="none of 2 layers"):
        recipe.at_layers(["a", "b"])
