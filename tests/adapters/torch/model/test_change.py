"""A recipe that changes during the training."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from qemu_swalp_torch import emulate
from qemu_swalp_torch.optim.param_groups import ACCUMULATOR
from torch import Tensor, nn

import qemu_swalp as q
from qemu_swalp.training import Recipe, swalp

FIRST = Recipe(
    weight="bfp8/stochastic",
    operands={"input": "e4m3fn/stochastic"},
    activation="bfp8/stochastic",
)
SECOND = Recipe(
    weight="bf16/stochastic",
    operands={"input": "bf16/stochastic"},
    activation="bf16/stochastic",
)


def made() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    return model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[Tensor]:
    torch.manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 8)).square().sum().backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def test_counters_seeds_and_steps_go_on() -> None:
    model, optimizer = made()
    handle = emulate(model, optimizer, FIRST, seed=5)
    train(model, optimizer, 3)
    before = copy.deepcopy(handle.state_dict())
    group = optimizer.param_groups[0]
    keys = [key for key in group if "seed" in key or "step" in key]
    counts = {key: group[key] for key in keys}
    handle.change(SECOND)
    assert handle.state_dict() == before
    assert {key: group[key] for key in keys} == counts
    assert 3 in counts.values()
    for p in model.parameters():
        assert torch.equal(p, q.quantize(p.detach(), "bf16"))


def test_a_change_to_the_same_recipe_changes_nothing() -> None:
    """Of a recipe whose weights are values of their format, every rounding stays."""
    model, optimizer = made()
    handle = emulate(model, optimizer, FIRST, seed=5)
    train(model, optimizer, 2)
    handle.change(FIRST)
    other, plain = made()
    emulate(other, plain, FIRST, seed=5)
    train(other, plain, 2)
    same = zip(train(model, optimizer, 2), train(other, plain, 2), strict=True)
    assert all(torch.equal(a, b) for a, b in same)


def test_full_precision_and_back() -> None:
    model, optimizer = made()
    handle = emulate(model, optimizer, FIRST, seed=5, average=True)
    train(model, optimizer, 1)
    handle.change(None)
    assert handle.handles == {}
    weights = train(model, optimizer, 1)
    assert not torch.equal(weights[0], q.quantize(weights[0], "bfp8"))
    handle.change("swalp8")
    train(model, optimizer, 1)
    assert handle.averager is not None
    assert handle.averager.n_averaged == 3
    handle.remove()


@pytest.mark.parametrize(
    ("recipe", "error", "words"),
    [
        (Recipe(), ValueError, "the recipe is empty"),
        ("mxfp9", ValueError, "mxfp8"),
        (Recipe(weight="bfp8", overrides={"haed.*": None}), ValueError, "matches none"),
        (3, TypeError, "recipe must be"),
    ],
)
def test_a_change_that_fails_leaves_all_as_it_was(
    recipe: Any, error: type[Exception], words: str
) -> None:
    model, optimizer = made()
    handle = emulate(model, optimizer, FIRST, seed=5)
    train(model, optimizer, 2)
    before = copy.deepcopy(handle.state_dict())
    with pytest.raises(error, match=words):
        handle.change(recipe)
    assert handle.state_dict() == before
    assert handle.recipe == FIRST
    other, plain = made()
    emulate(other, plain, FIRST, seed=5)
    train(other, plain, 2)
    same = zip(train(model, optimizer, 1), train(other, plain, 1), strict=True)
    assert all(torch.equal(a, b) for a, b in same)


def test_a_changed_run_without_optimizer_refuses_its_sections() -> None:
    model, _ = made()
    handle = emulate(model, None, Recipe(operands={"input": "mxfp8"}))
    with pytest.raises(ValueError, match="pass the optimizer"):
        handle.change(swalp(8))
    assert list(handle.handles) == ["products"]


ACCUMULATED = Recipe(weight="fixed<4,2>", accumulator="fixed<16,14>/stochastic")


def test_what_the_accumulator_has_learned_goes_on() -> None:
    model, optimizer = made()
    handle = emulate(model, optimizer, ACCUMULATED, seed=5)
    train(model, optimizer, 3)
    learned = {p: optimizer.state[p][ACCUMULATOR].clone() for p in model.parameters()}
    assert any(not torch.equal(p, value) for p, value in learned.items())
    with pytest.raises(ValueError, match="matches none"):
        handle.change(Recipe(weight="bfp8", overrides={"haed.*": None}))
    assert all(torch.equal(optimizer.state[p][ACCUMULATOR], a) for p, a in learned.items())
    assert all(torch.equal(p, q.quantize(p.detach(), "fixed<4,2>")) for p in learned)
    handle.change(None)
    assert all(torch.equal(p, value) for p, value in learned.items())
