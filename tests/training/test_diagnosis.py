"""The role that breaks training, on trainings that a given role breaks."""

from __future__ import annotations

import json
import math
from pathlib import Path

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
        descend, Recipe(**{coarse: "fixed<8,0>/toward_positive", fine: "fixed<24,18>/stochastic"})
    )
    assert study.breaking == coarse
    assert study.recovered(coarse) > 0.9
    assert abs(study.recovered(fine)) < 0.1
    assert str(study).splitlines()[3].startswith(coarse)


def study_of(quantized: float, full: float, without: dict[str, float]) -> RoleStudy:
    """A study of one seed."""
    losses = {"nothing": quantized, "everything": full} | without
    return RoleStudy({name: (loss,) for name, loss in losses.items()})


def test_two_that_break_together_are_not_one() -> None:
    assert study_of(2.0, 1.0, {"weight": 2.0, "gradient": 1.9}).breaking is None
    assert study_of(2.0, 1.0, {"weight": 2.0, "gradient": 1.5}).breaking == "gradient"


def test_operands_state_and_overrides_are_roles_too() -> None:
    recipe = Recipe(
        operands={"error": "e5m2/stochastic"},
        state={"exp_avg_sq": "bf16/stochastic"},
        sums={"wgrad.sum": "fp16/stochastic"},
        overrides={"head.*": Recipe(weight="bf16/stochastic"), "*.bias": None},
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
    study = study_of(math.nan, 1.0, {"weight": math.nan, "error": 1.5})
    assert study.breaking == "error"
    assert (study.recovered("weight"), study.recovered("error")) == (0, 1)
    study = study_of(2.0, 1.0, {"weight": math.inf})
    assert study.recovered("weight") == -math.inf
    assert study.breaking is None
    assert math.isnan(study_of(1.0, 1.0, {"weight": 1.0}).recovered("weight"))


def test_a_recipe_that_rounds_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="the recipe must round something"):
        find_breaking_role(lambda recipe: 0.0, Recipe())
    assert find_breaking_role(lambda recipe: 0.0, swalp(8)).breaking is None


def by_role(recipe: Recipe, seed: int = 0) -> float:
    """A training that cannot stand a rounded momentum; its noise is that of the seed."""
    return (2.0 if recipe.momentum else 1.0) + 0.1 * seed


MOMENTUM = Recipe(weight="bfp8/nearest_even", momentum="bfp4/nearest_even")


def test_several_seeds_show_their_spread() -> None:
    study = find_breaking_role(by_role, MOMENTUM, seeds=(0, 1, 2), progress=False)
    assert study.losses["momentum"] == (1.0, 1.1, 1.2)
    assert (study.quantized, study.breaking) == (pytest.approx(2.1), "momentum")
    assert "2.1 ± 0.1" in str(study).splitlines()[2]
    assert str(study).splitlines()[3].split() == ["momentum", "1.1", "±", "0.1", "100%"]


def test_a_cost_within_the_noise_of_the_seeds_breaks_nothing() -> None:
    losses = {"nothing": (1.1, 1.3), "everything": (1.0, 1.2), "weight": (1.0, 1.2)}
    assert RoleStudy(losses).breaking is None
    assert RoleStudy({name: values[:1] for name, values in losses.items()}).breaking == "weight"


def test_some_seeds_that_diverge() -> None:
    losses = {"nothing": (1.0, math.nan), "everything": (1.0, 1.2), "weight": (1.0, 1.2)}
    assert RoleStudy(losses).breaking == "weight"
    assert "1 of 2 diverged" in str(RoleStudy(losses))


def test_layers_by_patterns_of_names() -> None:
    def train(recipe: Recipe) -> float:
        return 2.0 if recipe.of("head.weight").weight else 1.0

    study = find_breaking_role(train, swalp(8), patterns=["conv*", "head.*"], progress=False)
    assert study.without["head.*"] == study.without["weight"] == study.full == 1
    assert study.without["conv*"] == study.quantized == 2
    with pytest.raises(
        ValueError, match=r"differ from the names of roles, got 'weight'; write '\*w"
    ):
        find_breaking_role(train, swalp(8), patterns=["weight"])


def test_an_interrupted_study_keeps_what_it_has(tmp_path: Path) -> None:
    calls: list[Recipe] = []

    def train(recipe: Recipe, seed: int) -> float:
        calls.append(recipe)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return by_role(recipe, seed)

    path = tmp_path / "study.jsonl"
    study = find_breaking_role(train, MOMENTUM, seeds=(0, 1), path=path, progress=False)
    assert study.losses == {
        "nothing": (2.0,),
        "everything": (1.0,),
        "weight": (2.0,),
        "momentum": (),
    }
    assert study.breaking is None
    assert "momentum" not in str(study)
    path.write_text(path.read_text() + '{"loss": 3, "rec')  # a line that was cut off
    again = find_breaking_role(train, MOMENTUM, seeds=(0, 1), path=path, progress=False)
    assert len(calls) == 4 + 5  # three of the eight trainings were there
    assert again.losses["momentum"] == (1.0, 1.1)
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    assert {line["recipe"]["weight"] for line in lines} == {"bfp8/nearest_even"}
    find_breaking_role(train, swalp(4), seeds=(0,), path=path, progress=False)
    assert len(calls) == 9 + 7  # another recipe's losses are not taken for this one's


def test_a_failed_training_leaves_the_losses_in_the_file(tmp_path: Path) -> None:
    def train(recipe: Recipe) -> float:
        if not recipe.sections:
            raise RuntimeError("out of memory")
        return 2.0

    with pytest.raises(RuntimeError, match="out of memory"):
        find_breaking_role(train, MOMENTUM, path=tmp_path / "s", progress=False)
    study = find_breaking_role(by_role, MOMENTUM, path=tmp_path / "s", progress=False)
    assert (study.quantized, study.full) == (2.0, 1.0)


def test_all_recipes_but_the_first_may_be_empty() -> None:
    """The first must be applied as a whole; the others have sections that were emptied."""
    given: list[Recipe] = []
    find_breaking_role(lambda r: given.append(r) or 1.0, MOMENTUM, progress=False)  # type: ignore[func-returns-value]
    assert [recipe.allow_empty for recipe in given] == [False, True, True, True]


def test_progress_is_a_bar_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    find_breaking_role(by_role, MOMENTUM)
    shown = capsys.readouterr()
    assert "4/4" in shown.err
    assert shown.out == ""
    find_breaking_role(by_role, MOMENTUM, progress=False)
    assert capsys.readouterr().err == ""


def test_seeds_are_checked() -> None:
    for seeds, kind in (((), ValueError), ((-1,), ValueError), (("a",), TypeError)):
        with pytest.raises(kind, match="seeds"):
            find_breaking_role(by_role, MOMENTUM, seeds=seeds)  # type: ignore[arg-type]


def test_the_plot_has_a_point_for_each_line() -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    axes = figure.subplots()
    find_breaking_role(by_role, MOMENTUM, seeds=(0, 1), progress=False).plot(axes)
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["everything", "momentum", "weight", "nothing"]
