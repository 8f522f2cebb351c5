"""Batches without samples, as the last ones of some loaders, pass rounded models as plain ones."""

import pytest
import torch
from qemu_swalp_torch import quantize_elementwise, quantize_gemms
from torch import nn

from qemu_swalp.training import Recipe

PRODUCTS = {
    "sums": Recipe(sums="bf16/nearest_even; chunk=4"),
    "stochastic sums": Recipe(sums="bf16/stochastic"),
    "operands": Recipe(operands=dict.fromkeys(("input", "weight", "error"), "bfp<8,axis=0>")),
}
LAYERS = {
    "linear": (lambda: nn.Linear(4, 3), (0, 4)),
    "convolution": (lambda: nn.Conv2d(2, 32, 3), (0, 2, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(2, 8, 3), (0, 2, 5, 5)),
    "grouped": (lambda: nn.Conv1d(4, 8, 3, groups=2), (0, 4, 9)),
    "recurrent": (lambda: nn.LSTM(4, 3), (5, 0, 4)),
    "attention": (lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), (0, 5, 4)),
}
NORMALIZED = {
    "group": (lambda: nn.GroupNorm(2, 4), (0, 4, 5)),
    "layer": (lambda: nn.LayerNorm(4), (0, 4)),
    "batch": (lambda: nn.BatchNorm1d(4), (0, 4, 5)),
}


def passed(model, shape):
    """Shape of the output; the gradients have those of what they are of."""
    x = torch.zeros(shape, requires_grad=True)
    y = model(x)
    y = y[0] if isinstance(y, tuple) else y
    y.sum().backward()
    for p in (x, *model.parameters()):
        assert p.grad.shape == p.shape
        assert not p.grad.any()
    return y.shape


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("recipe", PRODUCTS)
def test_products(recipe, name):
    make, shape = LAYERS[name]
    model = make()
    quantize_gemms(model, PRODUCTS[recipe], seed=0)
    assert passed(model, shape) == passed(make(), shape)


@pytest.mark.parametrize("name", NORMALIZED)
def test_elementwise_operations(name):
    make, shape = NORMALIZED[name]
    model = make()
    quantize_elementwise(model, Recipe(elementwise="bf16"), seed=0)
    assert passed(model, shape) == passed(make(), shape)
