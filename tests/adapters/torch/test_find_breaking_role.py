"""`find_breaking_role` through every entry point of the adapter, which refuse empty sections."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from qemu_swalp_torch import (
    quantize_activations,
    quantize_elementwise,
    quantize_gemms,
    quantize_optimizer,
)
from torch import nn

from qemu_swalp.training import Recipe, find_breaking_role, restart_seeds

RECIPE = Recipe(
    weight="bfp<8>/nearest_even",
    activation="bf16/nearest_even",
    operands={"input": "mxfp4/nearest_even"},
    elementwise={"forward.sum": "bf16/nearest_even"},
)
STOCHASTIC = Recipe(
    weight="bfp<8>/stochastic",
    activation="bf16/stochastic",
    operands={"input": "mxfp4/stochastic"},
    elementwise={"forward.sum": "bf16/stochastic"},
)


class Net(nn.Sequential):
    """A small network, with a layer that no forward calls."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 1))
        self.unused = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, 4) → (batch, 1)."""
        for layer in list(self)[:4]:
            x = layer(x)
        return x


def train(recipe: Recipe, seed: int = 0) -> float:
    """Loss of a small regression whose rounded parts are all the recipe's."""
    torch.manual_seed(seed)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    quantize_activations(model, recipe)
    quantize_gemms(model, recipe)
    quantize_elementwise(model, recipe)
    quantize_optimizer(optimizer, recipe, model=model)
    x = torch.randn(64, 4)
    loss = torch.zeros(())
    for _ in range(5):
        optimizer.zero_grad()
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
    return loss.item()


def test_it_finishes_with_every_entry_point() -> None:
    patterns = ["0.*", "*"]
    study = find_breaking_role(train, RECIPE, seeds=(0, 1), patterns=patterns, progress=False)
    roles = ["weight", "activation", "forward.input", "wgrad.input", "forward.sum"]
    assert list(study.losses) == ["nothing", "everything", *roles, *patterns]
    assert all(len(losses) == 2 for losses in study.losses.values())
    assert study.losses["*"] == study.losses["everything"] != study.losses["nothing"]


def test_trainings_differ_by_what_is_in_full_precision_alone(tmp_path: Path) -> None:
    """A layer that computes nothing makes no difference, nor does what was made before the study,
    or where it was interrupted.
    """
    path = tmp_path / "study"
    study = find_breaking_role(
        train, STOCHASTIC, patterns=["unused.*", "3.*"], path=path, progress=False
    )
    assert study.losses["unused.*"] == study.losses["nothing"] != study.losses["3.*"]
    quantize_gemms(Net(), STOCHASTIC)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    again = find_breaking_role(
        train, STOCHASTIC, patterns=["unused.*", "3.*"], path=path, progress=False
    )
    assert again == study


def test_a_study_uses_up_no_default_seeds() -> None:
    restart_seeds()
    find_breaking_role(train, STOCHASTIC, progress=False)
    assert quantize_gemms(Net(), STOCHASTIC).sites[0].seed == 0


def test_a_recipe_that_may_be_empty_leaves_the_model_as_it_is() -> None:
    model = nn.Linear(3, 1)
    x = torch.randn(2, 3)
    y = model(x)
    for call in (quantize_activations, quantize_gemms, quantize_elementwise):
        with pytest.raises(ValueError, match="nothing to round"):
            call(model, Recipe())
        handle = call(model, Recipe(allow_empty=True))
        assert handle.names == []
        assert torch.equal(model(x), y)
        handle.remove()
