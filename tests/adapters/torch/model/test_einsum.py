"""What einsum computes that is no product of matrices is rounded as the elementwise operations and
sums that it stands for.
"""

import pytest
import torch
from qemu_swalp_torch import quantize_elementwise, quantize_gemms
from torch import nn

from qemu_swalp.training import Recipe

X = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(1))
ELEMENTWISE = {
    "bij,bij->jbi": lambda x, y: (x * y).permute(2, 0, 1),
    "bij,b->bij": lambda x, v: x * v[:, None, None],
    "b,bij->ijb": lambda v, x: (v[:, None, None] * x).permute(1, 2, 0),
    "b,i->ib": lambda v, x: (v[:, None] * x).T,
    "bij->jb": lambda x: x.sum(1).T,
    "bii->b": lambda x: x.diagonal(dim1=1, dim2=2).sum(-1),
    "bij,bk->bi": lambda x, v: x.sum(2) * v.sum(1)[:, None],
}
"""By equation, what it computes of its operands."""


class Calling(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def operands(equation):
    shapes = {"bij": X, "bii": X, "b": X[:, 0, 0], "i": X[0, 0], "bk": X[:, 1]}
    return [shapes[part] for part in equation.partition("->")[0].split(",")]


@pytest.mark.parametrize("equation", ELEMENTWISE)
def test_elementwise_parts_are_rounded_one_by_one(equation):
    recipe, given = Recipe(elementwise="fixed<8,3>/nearest_even"), operands(equation)
    found = []
    for function in (lambda *x: torch.einsum(equation, *x), ELEMENTWISE[equation]):
        model = Calling(function)
        quantize_elementwise(model, recipe)
        inputs = [x.clone().requires_grad_() for x in given]
        y = model(*inputs)
        found.append([y, *torch.autograd.grad(y, inputs, torch.full_like(y, 0.3))])
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(found[0][0], torch.einsum(equation, *given))


@pytest.mark.parametrize("equation", ELEMENTWISE)
def test_they_are_no_products(equation):
    model = Calling(lambda *x: torch.einsum(equation, *x))
    quantize_gemms(model, Recipe(operands={"input": "fixed<8,3>"}), attention=True)
    with pytest.raises(ValueError, match="made no product"):
        model(*operands(equation))
