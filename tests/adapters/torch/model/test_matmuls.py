"""Operands of matrix products: which numbers share a block, the core's bits, and the module as it
was otherwise.
"""

import copy

import numpy as np
import pytest
import torch
from qemu_swalp_torch import Matmul, quantize_gemms
from torch import nn
from torch.nn import functional as F

from qemu_swalp import quantize
from qemu_swalp.training import Recipe
from tests.helpers.products import NEAREST, STOCHASTIC, rounder

RUNS_OF_3 = "bfp<4,axis=-1,size=3>/nearest_even"


RUNS = Recipe(operands=dict.fromkeys(("input", "weight", "error"), RUNS_OF_3))


@pytest.mark.parametrize("recipe", [NEAREST, STOCHASTIC], ids=["nearest", "stochastic"])
def test_a_linear_layer_by_hand(same, recipe):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(7, 5))
    quantize_gemms(model, recipe, seed=9)
    w, b = model[0].weight, model[0].bias
    for call in range(2):
        x, e = torch.randn(2, 3, 7, requires_grad=True), torch.randn(2, 3, 5)
        model.zero_grad()
        y = model(x)
        y.backward(e)
        q = rounder(recipe, 9, 1, call)
        rows, errors = x.detach().reshape(6, 7), e.reshape(6, 5)
        same(
            y,
            F.linear(q("forward.input", rows), q("forward.weight", w.detach()), b).reshape(2, 3, 5),
        )
        same(
            x.grad,
            F.linear(q("dgrad.error", errors), q("dgrad.weight", w.detach().t())).reshape(2, 3, 7),
        )
        same(w.grad, F.linear(q("wgrad.error", errors.t()), q("wgrad.input", rows.t())))
        same(b.grad, errors.sum(0))


def along(x, axis, size=3):
    """x with blocks of so many elements along an axis, rounded block by block."""
    moved = np.moveaxis(x.detach().numpy().copy(), axis, -1)
    for index in np.ndindex(moved.shape[:-1]):
        for start in range(0, moved.shape[-1], size):
            moved[index][start : start + size] = quantize(
                moved[index][start : start + size], "bfp4"
            )
    return torch.tensor(np.ascontiguousarray(np.moveaxis(moved, -1, axis)))


CONVOLUTIONS = [
    (nn.Conv1d(7, 4, 3), (2, 7, 9)),
    (nn.Conv2d(4, 7, 3, stride=2, padding=1, bias=False), (2, 4, 6, 5)),
    (nn.Conv2d(4, 5, (1, 2), dilation=2), (1, 4, 3, 6)),
    (nn.Conv3d(4, 2, 2), (1, 4, 3, 3, 2)),
    (nn.ConvTranspose1d(4, 7, 3, stride=2), (2, 4, 5)),
    (nn.ConvTranspose2d(5, 4, 3, stride=2, padding=1, output_padding=1), (2, 5, 3, 4)),
]


@pytest.mark.parametrize(("module", "shape"), CONVOLUTIONS, ids=lambda v: str(v)[:60])
def test_blocks_lie_along_the_sums_of_convolutions(same, module, shape):
    module = copy.deepcopy(module)
    inputs = 0 if module.transposed else 1  # the axis of the weight that is summed over forward
    w, x = module.weight, torch.randn(shape, requires_grad=True)
    plain = type(module).forward.__get__(copy.deepcopy(module))

    def by_hand(x, weight):
        plain.__self__.weight = nn.Parameter(weight)
        x = x.detach().requires_grad_()
        return x, plain.__self__.weight, plain(x)

    quantize_gemms(module, RUNS)
    y = module(x)
    e = torch.randn(y.shape)
    y.backward(e)
    same(y, by_hand(along(x, 1), along(w, inputs))[2])
    a, _, z = by_hand(x, along(w, 1 - inputs))
    z.backward(along(e, 1))
    same(x.grad, a.grad)
    pixels = [t.detach().transpose(0, 1) for t in (x, e)]
    flat = [along(t.flatten(1), 1).reshape(t.shape).transpose(0, 1).contiguous() for t in pixels]
    _, v, z = by_hand(flat[0], w.detach())
    z.backward(flat[1])
    same(w.grad, v.grad)
    if module.bias is not None:
        same(module.bias.grad, e.sum([d for d in range(e.ndim) if d != 1]))


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.ConvTranspose1d])
@pytest.mark.parametrize("blocks", ["bfp<4,axis=-1,size=3>", "bfp<4,axis=(-2,-1),size=2>"])
def test_blocks_do_not_cross_the_groups_of_a_convolution(same, kind, blocks):
    """Two groups are two convolutions."""
    recipe = Recipe(
        operands={"input": RUNS_OF_3, "error": RUNS_OF_3, "weight": f"{blocks}/nearest_even"}
    )
    whole, halves = (
        kind(8, 4, 3, groups=2, bias=False),
        [kind(4, 2, 3, bias=False) for _ in range(2)],
    )
    for half, weight in zip(halves, whole.weight.detach().chunk(2), strict=True):
        half.weight = nn.Parameter(weight.clone())
    for module in (whole, *halves):
        quantize_gemms(module, recipe)
    x, parts = torch.randn(2, 8, 6, requires_grad=True), []
    y = whole(x)
    e = torch.randn(y.shape)
    y.backward(e)
    for half, part in zip(halves, x.detach().chunk(2, 1), strict=True):
        parts.append(part.clone().requires_grad_())
        half(parts[-1]).backward(e.chunk(2, 1)[len(parts) - 1])
    same(x.grad, torch.cat([part.grad for part in parts], 1))
    same(whole.weight.grad, torch.cat([half.weight.grad for half in halves]))


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "same", "dilation": 2},
        {"padding": "valid"},
        {"padding": 2, "padding_mode": "circular"},
        {"padding": "same", "kernel_size": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(2, 3, 8), (3, 8)], ids=str)
def test_every_padding_is_pytorchs(same, options, shape):
    module = nn.Conv1d(3, 4, **{"kernel_size": 3} | options)
    x = torch.randn(shape)
    expected = module(x)
    quantize_gemms(module, Recipe(operands={"input": "float<8,22>/nearest_even"}))
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-6)


def test_a_product_of_activations_by_hand(same):
    model = Matmul()
    quantize_gemms(model, STOCHASTIC, attention=True, seed=4)
    a, b = torch.randn(2, 1, 3, 4, requires_grad=True), torch.randn(5, 4, 6, requires_grad=True)
    y, q = model(a, b), rounder(STOCHASTIC, 4, 0, 0)
    e = torch.randn(y.shape)
    y.backward(e)
    a_, b_ = a.detach(), b.detach()
    same(y, q("forward.input", a_) @ q("forward.weight", b_.mT, "forward.input").mT)
    same(
        a.grad, (q("dgrad.error", e) @ q("dgrad.weight", b_, "wgrad.input").mT).sum(1, keepdim=True)
    )
    same(b.grad, (q("wgrad.input", a_.mT) @ q("wgrad.error", e.mT).mT).sum(0))


def test_autocast_and_half_precision(on_grid):
    model = nn.Linear(4, 3)
    quantize_gemms(
        model,
        Recipe(
            operands={
                "error": "e5m2/stochastic",
                "input": "e4m3fn/stochastic",
                "weight": "e4m3fn/stochastic",
            }
        ),
    )
    with torch.autocast("cpu", torch.bfloat16):
        y = model(torch.randn(2, 4))
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert model.weight.grad.dtype == torch.float32
    model.bfloat16()(torch.randn(2, 4, dtype=torch.bfloat16)).sum().backward()
    model(torch.randn(0, 4, dtype=torch.bfloat16)).sum().backward()


def test_can_be_differentiated_twice():
    """Straight through the roundings: d²(wx)³ = 6·w²·(wx) with rounded factors."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.7)
    quantize_gemms(
        model,
        Recipe(
            operands={
                "input": "fixed<8,1>/nearest_even",
                "weight": "fixed<8,2>/nearest_even",
                "error": "bf16/nearest_even",
            }
        ),
    )
    x = torch.tensor([[0.9]], requires_grad=True)
    (g,) = torch.autograd.grad((model(x) ** 3).sum(), x, create_graph=True)
    g.sum().backward()
    assert g.item() == 3 * 0.75**3
    assert x.grad.item() == 6 * 0.75**3
