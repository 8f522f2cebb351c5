"""Second and third derivatives of elementwise operations are rounded operation by operation."""

import pytest
import torch
from qemu_swalp_torch import quantize_elementwise
from torch import nn
from torch.nn import functional as F

from qemu_swalp.training import Recipe


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


X = torch.linspace(0.2, 1.9, 32).reshape(4, 8)
ONE_PATH = {
    "sin": torch.sin,
    "exp": torch.exp,
    "log": torch.log,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "rsqrt": torch.rsqrt,
    "elu": lambda x: F.elu(x - 1),
}
"""Where autograd adds up no gradients of its own."""
FUNCTIONS = {
    **ONE_PATH,
    "erf": torch.erf,
    "gelu": F.gelu,
    "silu": F.silu,
    "power": lambda x: x**3,
    "quotient": lambda x: x * x[:, :1] / x[:1],
    "softmax": lambda x: x.softmax(-1) * X.to(x),
    "layer norm": lambda x: F.layer_norm(x, (8,)) * X.to(x),
    "logsumexp": lambda x: x.logsumexp(-1),
    "loss": lambda x: F.cross_entropy(x, torch.zeros(4).long()),
}


def derivatives(function, x, recipe=None):
    """Those of orders two and three, of squares, so that none is constant."""
    model, found = Function(function), []
    if recipe is not None:
        quantize_elementwise(model, recipe, seed=0)
    x = x.clone().requires_grad_()
    y = model(x)
    for _ in range(3):
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        found.append(y)
    return found[1:]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_in_a_format_of_many_bits_they_are_those_of_floats(name):
    function, x = FUNCTIONS[name], X.double()
    found = derivatives(function, x, Recipe(elementwise="float<11,40>"))
    for plain, rounded in zip(derivatives(function, x), found, strict=True):
        torch.testing.assert_close(rounded, plain, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", ONE_PATH)
@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
def test_they_lie_on_the_grid(name, rounding):
    second, _ = derivatives(ONE_PATH[name], X, Recipe(elementwise=f"bf16/{rounding}"))
    assert torch.equal(second, second.bfloat16().float())


def test_each_operation_draws_random_bits_of_its_own():
    """The same product, of the first and of the second derivative."""
    model, x = Function(lambda x: x * 1.0), torch.full((64,), 0.3, requires_grad=True)
    quantize_elementwise(model, Recipe(elementwise="fixed<8,2>/stochastic"), seed=0)
    g = torch.full((64,), 0.3, requires_grad=True)
    (first,) = torch.autograd.grad(model(x), x, g, create_graph=True)
    (second,) = torch.autograd.grad(first, g, torch.full((64,), 0.3))
    assert set(first.tolist()) == set(second.tolist()) == {0.25, 0.5}
    assert not torch.equal(first, second)
