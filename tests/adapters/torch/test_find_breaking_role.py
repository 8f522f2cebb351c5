"""`find_breaking_role` through every entry point of the adapter, which refuse empty sections."""

from __future__ import annotations

import pytest
import torch
from qemu_swalp_torch import (
    quantize_activations,
    quantize_elementwise,
    quantize_gemms,
    quantize_optimizer,
)
from torch import nn

from qemu_swalp.training import Recipe, find_breaking_role

RECIPE = Recipe(
    weight="bfp<8>/nearest_even",
    activation="bf16/nearest_even",
    operands={"input": "mxfp4/nearest_even"},
    elementwise={"forward.sum": "bf16/nearest_even"},
)


def train(recipe: Recipe, seed: int) -> float:
    """Loss of a small regression whose rounded parts are all the recipe's."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 1))
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
