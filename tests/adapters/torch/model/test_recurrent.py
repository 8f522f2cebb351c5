"""Recurrent layers whose products are rounded: PyTorch's own, without rounding, and by hand."""

import copy

import pytest
import torch
from qemu_swalp_torch import quantize_elementwise, quantize_gemms
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from qemu_swalp.training import Recipe
from tests.helpers.products import STOCHASTIC, rounder

EXACT = Recipe(operands=dict.fromkeys(("input", "weight", "error"), "float<11,52>/nearest_even"))
KINDS = {
    "lstm": lambda **options: nn.LSTM(3, 4, **options),
    "projected": lambda **options: nn.LSTM(3, 4, proj_size=2, **options),
    "gru": lambda **options: nn.GRU(3, 4, **options),
    "tanh": lambda **options: nn.RNN(3, 4, **options),
    "relu": lambda **options: nn.RNN(3, 4, nonlinearity="relu", **options),
}


def flat(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [x for part in value for x in flat(part)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2, "bidirectional": True, "batch_first": True},
        {"bias": False, "bidirectional": True},
    ],
    ids=["one", "two, both directions, batch first", "no bias"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_without_rounding_they_are_pytorchs(kind, options, packed):
    torch.manual_seed(0)
    plain = KINDS[kind](**options).double()
    ours = copy.deepcopy(plain)
    quantize_gemms(ours, EXACT)
    x = torch.randn(5, 5, 3, dtype=torch.float64, requires_grad=True)
    results = []
    for layer in (plain, ours):
        first = layer.batch_first
        given = (
            pack_padded_sequence(x, [2, 5, 1, 4, 4], batch_first=first, enforce_sorted=False)
            if packed
            else x
        )
        y, state = layer(given)
        if packed:
            y, _ = pad_packed_sequence(y, batch_first=first)
        outputs = flat([y, state])
        loss = sum(part.square().sum() for part in outputs)
        results.append([*outputs, *torch.autograd.grad(loss, [x, *layer.parameters()])])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["projected", "gru", "tanh"])
def test_gradients_are_those_of_the_function(kind):
    torch.manual_seed(0)
    layer = KINDS[kind]().double()
    quantize_gemms(layer, EXACT)
    x = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: layer(x)[0], x)


def test_an_unbatched_sequence_and_a_given_state():
    plain = nn.LSTM(3, 4)
    ours = copy.deepcopy(plain)
    quantize_gemms(ours, Recipe(operands={"input": "float<8,23>/nearest_even"}))
    x, state = torch.randn(5, 3), (torch.randn(1, 4), torch.randn(1, 4))
    for expected, found in zip(flat(plain(x, state)), flat(ours(x, state)), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_cell_by_hand(same):
    cell = nn.RNNCell(4, 3)
    quantize_gemms(nn.ModuleList([cell]), STOCHASTIC, seed=5)
    x, h = torch.randn(2, 4), torch.randn(2, 3)
    ih, hh = (rounder(STOCHASTIC, 5, 1, 0, part) for part in (".ih", ".hh"))
    with torch.no_grad():
        a = nn.functional.linear(
            ih("forward.input", x), ih("forward.weight", cell.weight_ih), cell.bias_ih
        )
        b = nn.functional.linear(
            hh("forward.input", h), hh("forward.weight", cell.weight_hh), cell.bias_hh
        )
    same(cell(x, h).detach(), (a + b).tanh())


def test_gates_are_rounded_by_the_elementwise_section():
    layer = nn.GRU(3, 4)
    quantize_elementwise(layer, Recipe(elementwise="bf16/nearest_even"))
    y, _ = layer(torch.randn(5, 2, 3))
    assert torch.equal(y, y.bfloat16().float())
