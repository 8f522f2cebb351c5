"""`flex_attention` compiles itself where nobody else does: told by words, and run where it may."""

import warnings

import pytest
import torch
from qemu_swalp_torch import UncoveredError, emulate, quantize_elementwise, quantize_gemms
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from qemu_swalp.training import Recipe
from tests.helpers.dispatched import ALL

X = torch.linspace(-1, 1, 2 * 16 * 8).reshape(2, 16, 8)
MASK = create_block_mask(lambda b, h, i, j: i >= j, None, None, 16, 16, device="cpu")


class Attention(nn.Module):
    def forward(self, x):
        x = x.unflatten(-1, (2, 4)).transpose(1, 2)
        return flex_attention(x, x, x, score_mod=relative, block_mask=MASK)


def relative(score, b, h, i, j):
    return score + (i - j)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), Attention())
    with torch.no_grad():  # on a CPU it has no gradient
        yield model


def test_it_is_told_by_name(model):
    quantize_gemms(model, ALL, attention=True)
    words = r"section 'products' .*: 1: flex_attention, which compiles itself\. Exclude them"
    for _ in range(2):
        with pytest.raises(UncoveredError, match=words):
            model(X)


def test_its_operations_too(model):
    quantize_elementwise(model, Recipe(elementwise="bf16"))
    with pytest.raises(UncoveredError, match=r"section 'elementwise' .*1: flex_attention"):
        model(X)


OPTIONS = {
    "warn": {"attention": True, "uncovered": "warn"},
    "ignore": {"attention": True, "uncovered": "ignore"},
    "excluded": {"attention": True, "exclude": "1"},
    "not asked": {"attention": False},
}


@pytest.mark.parametrize("case", OPTIONS)
def test_it_runs_where_it_may(model, case):
    emulate(model, None, ALL, **OPTIONS[case])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = [model(X) for _ in range(2)]
    told = [w for w in caught if "flex_attention, which compiles itself" in str(w.message)]
    assert len(told) == 2 * (case == "warn")
    expected = Attention()(model[0](X))
    assert all(torch.equal(y, expected) for y in found)
