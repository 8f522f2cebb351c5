"""Rounded models in the transforms of `torch.func`."""

import pytest
import torch
from qemu_swalp_torch import emulate
from torch import nn

from qemu_swalp.training import Recipe

KINDS = ("input", "weight", "error")
RECIPES = {
    "operands": Recipe(operands=dict.fromkeys(KINDS, "bfp8/stochastic")),
    "activations": Recipe(activation="bfp8/stochastic", error="bfp8/stochastic"),
    "elementwise": Recipe(elementwise="bf16/stochastic"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_grad_draws_the_random_bits_of_a_backward(same, name):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(3, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    handle = emulate(model, optimizer, RECIPES[name], seed=0)
    before, weights = handle.state_dict(), dict(model.named_parameters())

    def loss(weights):
        return torch.func.functional_call(model, weights, (x,)).square().sum()

    for _ in range(2):
        found = torch.func.grad(loss)({key: p.detach() for key, p in weights.items()})
    after = handle.state_dict()
    handle.load_state_dict(before)
    for _ in range(2):
        model.zero_grad()
        loss(weights).backward()
    assert handle.state_dict() == after
    for key, p in weights.items():
        same(found[key], p.grad)
