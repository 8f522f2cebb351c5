"""Transforms and factors of products, and layers by position."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from qemu_swalp import Hadamard
from qemu_swalp.training import FULL_PRECISION, OPERANDS, Recipe
from qemu_swalp.training.delayed import Delayed
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


PER_TENSOR = "block<e4m3fn,scale=float<8,23>>"


def test_delayed_scaling_is_of_kinds_of_operands() -> None:
    recipe = Recipe(
        operands={"input": PER_TENSOR, "wgrad.error": "e5m2"}, scaling={"input": "delayed<8>"}
    )
    assert recipe.scaling == (("input", Delayed(8)),)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert "delayed<8>" in str(recipe)
    assert Recipe(operands={"input": PER_TENSOR}, scaling="delayed<8>").scaling == recipe.scaling
    kept = without(recipe, "forward.input")
    assert kept.scaling == recipe.scaling
    assert without(kept, "wgrad.input").scaling == ()


@pytest.mark.parametrize(
    ("operands", "scaling", "words"),
    [
        ({"input": PER_TENSOR}, {"weight": "delayed<8>"}, "has none"),
        ({"input": "mxfp8"}, "delayed<8>", "one scale for the whole array"),
        ({"input": "e4m3fn"}, "delayed<8>", "one scale for the whole array"),
        ({"input": PER_TENSOR, "wgrad.input": "bfp8"}, "delayed<8>", "by one quantizer"),
        ({"input": PER_TENSOR}, {"inputs": "delayed<8>"}, "did you mean 'input'"),
        ({"input": PER_TENSOR}, "delayed<0>", "history"),
        ({"input": PER_TENSOR}, "delayed", "looks like"),
        ({"input": PER_TENSOR}, "delayed<8,amax=mean>", "most_recent"),
        ({"input": PER_TENSOR}, "delayed<8,lag=2>", "lag"),
    ],
)
def test_scaling_that_cannot_be_applied_is_refused(operands: Any, scaling: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Recipe(operands=operands, scaling=scaling)


@pytest.mark.parametrize("text", ["delayed<1024>", "delayed<4,margin=-1,amax=most_recent,lag=1>"])
def test_strings_of_delayed_scaling(text: str) -> None:
    assert str(Delayed.parse(text)) == text
    with pytest.raises(TypeError, match="got 3"):
        Delayed.parse(3)  # type: ignore[arg-type]


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


@pytest.mark.parametrize(
    "given", ["float<8,23>", "", ["input"], {"ab"}, 5, None, [("input", "bf16", 1)]]
)
@pytest.mark.parametrize("part", ["operands", "factors", "state", "overrides"])
def test_what_has_no_names_is_refused(part: str, given: Any) -> None:
    with pytest.raises(TypeError, match=r"must be a mapping \{name: value\}, or pairs of these"):
        Recipe(**{part: given})


def test_names_from_iterators() -> None:
    named: Any
    for part, named in (
        ("operands", FP4),
        ("sums", {"forward.sum": "bf16"}),
        ("state", {"m": "bf16"}),
    ):
        pairs: Any
        for pairs in (named.items(), iter(named.items()), [list(pair) for pair in named.items()]):
            assert Recipe(**{part: pairs}) == Recipe(**{part: named})
