"""Compiled products have the bits of eager ones."""

import copy
import shutil

import pytest
import torch
from qemu_swalp_torch import quantize_gemms
from torch import nn

from tests.helpers.products import NEAREST, STOCHASTIC, gradients, net


def attention_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), nn.Linear(8, 3)
    )


@pytest.mark.parametrize("kind", [net, attention_net])
@pytest.mark.parametrize("recipe", [NEAREST, STOCHASTIC], ids=["nearest", "stochastic"])
def test_compiles_as_one_graph_with_the_eager_bits(same, kind, recipe):
    models = kind(), kind()
    for model in models:
        quantize_gemms(model, recipe, attention=True, seed=2**63 + 5)
    compiled = torch.compile(models[0], fullgraph=True, backend="aot_eager")
    for _ in range(2):
        x = torch.randn(3, 2, 4, 4) if kind is net else torch.randn(2, 3, 8)
        y, z = compiled(x), models[1](x)
        same(y, z)
        same(gradients(models[0], y), gradients(models[1], z))


@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
def test_inductors_operands_have_the_eager_bits(same):
    model = nn.Linear(6, 4, bias=False)
    quantize_gemms(model, STOCHASTIC)
    other = copy.deepcopy(model)
    x = torch.randn(5, 6)
    same(gradients(model, torch.compile(model, fullgraph=True)(x)), gradients(other, other(x)))


def test_after_compilation_it_warns():
    with pytest.warns(UserWarning, match="call quantize_gemms first, then torch.compile"):
        quantize_gemms(torch.compile(net()), NEAREST)
