"""Recipes by the number of the step, which `emulate` changes by itself."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from qemu_swalp_torch import emulate
from torch import Tensor, nn

from qemu_swalp.training import Phases, Recipe, recipe

PHASES = Phases(
    {
        0: Recipe("bf16/stochastic", operands={"input": "mxfp4", "error": "mxfp4/stochastic"}),
        3: "mxfp8",
        5: None,
        6: Recipe("e5m2/stochastic", momentum="bfp8/stochastic", accumulator="bf16"),
    }
)


class Training:
    """A small network whose steps are numbered."""

    def __init__(self, chosen: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
        self.optimizer = torch.optim.SGD(self.model.parameters(), 2e-3, momentum=0.9)
        self.handle = emulate(self.model, self.optimizer, chosen, seed=0)
        self.step = 0

    def run(self, steps: int, before: Callable[[int], None] = lambda step: None) -> list[Tensor]:
        for _ in range(steps):
            before(self.step)
            x = torch.randn(8, 32, generator=torch.Generator().manual_seed(self.step))
            self.optimizer.zero_grad()
            self.model(x).square().sum().backward()
            self.optimizer.step()
            self.step += 1
        return [p.detach().clone() for p in self.model.parameters()]


def test_it_is_what_change_does_by_hand() -> None:
    by_hand = Training(PHASES.at(0))

    def change(step: int) -> None:
        if PHASES.at(step) != by_hand.handle.recipe:
            by_hand.handle.change(PHASES.at(step))

    expected = by_hand.run(8, change)
    training = Training(PHASES)
    seen = []
    found = training.run(8, lambda step: seen.append(training.handle.recipe))
    assert seen == [PHASES.at(step) for step in range(8)]
    assert all(map(torch.equal, expected, found))


@pytest.mark.parametrize("stop", [2, 3, 4, 5, 6, 7])
def test_a_resumed_training_goes_on_in_its_phase(stop: int) -> None:
    expected = Training(PHASES).run(9)
    first = Training(PHASES)
    first.run(stop)
    parts = (first.handle, first.model, first.optimizer)
    saved = [copy.deepcopy(part.state_dict()) for part in parts]
    second = Training(PHASES)
    for part, state in zip((second.handle, second.model, second.optimizer), saved, strict=True):
        part.load_state_dict(state)
    second.step = stop
    assert all(map(torch.equal, expected, second.run(9 - stop)))


@pytest.mark.parametrize("first", [True, False])
def test_schedulers_wrap_steps_before_and_after(first: bool) -> None:
    torch.manual_seed(0)
    model = nn.Linear(32, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    make = lambda: torch.optim.lr_scheduler.StepLR(optimizer, 1)  # noqa: E731
    scheduler = make() if first else None
    handle = emulate(model, optimizer, Phases({0: "mxfp8", 2: "mxfp4"}), seed=0)
    scheduler = scheduler or make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            model(torch.ones(1, 32)).sum().backward()
            optimizer.step()
            scheduler.step()
    assert handle.recipe == recipe("mxfp4")
    handle.remove()
    optimizer.step()
    assert scheduler.get_last_lr() == pytest.approx([1e-3])


def test_remove_leaves_the_optimizer_as_it_was() -> None:
    training = Training(PHASES)
    training.handle.remove()
    assert "step" not in vars(training.optimizer)
    training.run(4)
    assert training.handle.recipe == PHASES.at(0)


def test_what_is_refused() -> None:
    model = nn.Linear(32, 4)
    with pytest.raises(ValueError, match="phases count the optimizer's steps"):
        emulate(model, None, PHASES)
    training = Training(PHASES)
    state = training.handle.state_dict()
    for wrong in ({}, {"phases": 3}, {"phases": {"step": -1}}, {**state, "products": {}}):
        with pytest.raises(ValueError, match="state"):
            training.handle.load_state_dict(wrong)
    later = {"phases": {"step": 3}, "products": {"other": {}}}
    with pytest.raises(ValueError, match="of other modules"):
        training.handle.load_state_dict(later)
    assert training.handle.recipe == PHASES.at(0)
    for recipes, kind, words in (
        ({1: "mxfp8"}, ValueError, "begins with step 0"),
        ({}, ValueError, "begins with step 0"),
        ({-1: "mxfp8"}, ValueError, "the number of a step must be from 0"),
        ({"0": "mxfp8"}, TypeError, "the number of a step must be an integer"),
        ([(0, "mxfp8")], TypeError, "must be {number of the first step"),
        ({0: "mxfp9"}, ValueError, "name of a preset"),
    ):
        with pytest.raises(kind, match=words):
            Phases(recipes)  # type: ignore[arg-type]


def test_phases_are_plain_strings_and_print_as_a_table() -> None:
    plain = json.loads(json.dumps(PHASES.to_dict()))
    assert Phases.from_dict(plain) == PHASES
    assert str(PHASES).splitlines()[2:] == [
        "0          optimizer, products",
        "3          products",
        "5          nothing",
        "6          optimizer",
    ]
