"""Backward products of what the forward product rounded, as in Quartet (Castro et al. 2025)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from qemu_swalp_torch import emulate
from torch import Tensor, nn

import qemu_swalp as q
from qemu_swalp.training import Recipe, recipe

NEAR = "block<e2m1fn,axis=sum,size=32,scale=e8m0fnu,rule=quest>/nearest_even"


def hadamard(n: int) -> Tensor:
    matrix = torch.ones(1, 1)
    while len(matrix) < n:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / n**0.5


def quest(x: Tensor) -> tuple[Tensor, Tensor]:
    """(x rounded as the authors' code does, mask of what is not clipped)."""
    blocks = x.reshape(-1, 32)
    std = (blocks.square().mean(1, True) - blocks.mean(1, True).square()).sqrt()
    scale = torch.exp2(torch.floor(torch.log2(2.92247856 / 6.0 * std)))
    elements = blocks / scale
    rounded = q.quantize(elements, "e2m1fn") * scale
    return rounded.reshape(x.shape), (elements.abs() <= 6).reshape(x.shape)


def test_gradients_are_those_of_the_authors_code() -> None:
    """Backward products without rounding of their own: what is left are masks and transforms."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 48, bias=False)
    x = torch.randn(96, 64, requires_grad=True)
    with torch.no_grad():
        x[0, 3], layer.weight[2, 40] = 30.0, -20.0
    h = torch.block_diag(hadamard(32), hadamard(32))
    xq, unclipped = quest(x.detach() @ h)
    wq, w_unclipped = quest(layer.weight.detach() @ h)
    assert not unclipped.all()
    assert not w_unclipped.all()
    operands = {"forward.input": NEAR, "forward.weight": NEAR}
    transforms = {"forward": "hadamard<32>"}
    emulate(layer, None, Recipe(operands=operands, transforms=transforms, backward="rounded"))
    error = torch.randn(96, 48)
    y = layer(x)
    y.backward(error)
    torch.testing.assert_close(y, xq @ wq.T, atol=1e-4, rtol=1e-5)
    expected = ((error @ wq) * unclipped) @ h.T
    torch.testing.assert_close(x.grad, expected, atol=1e-4, rtol=1e-5)
    dw = layer.weight.grad
    torch.testing.assert_close(dw, ((error.T @ xq) * w_unclipped) @ h.T, atol=1e-4, rtol=1e-5)


LAYERS: dict[str, Any] = {
    "linear": (lambda: nn.Linear(64, 32), (64, 64)),
    "convolution": (lambda: nn.Conv2d(32, 64, 3, padding=1), (2, 32, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose1d(32, 64, 3), (2, 32, 9)),
    "groups": (lambda: nn.Conv1d(64, 64, 3, groups=2), (2, 64, 9)),
}


@pytest.mark.parametrize("signs", ["", ",signs=fixed", ",signs=random"])
@pytest.mark.parametrize("name", LAYERS)
def test_without_clipping_nothing_but_rounding_changes(name: str, signs: str) -> None:
    """In a format of many bits gradients are those of the layer in float."""
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    plain, x = make(), torch.randn(shape)
    rounded = make()
    rounded.load_state_dict(plain.state_dict())
    emulate(
        rounded,
        None,
        Recipe(
            operands={"forward.input": "float<8,20>", "forward.weight": "float<8,20>"},
            transforms={"forward": f"hadamard<32{signs}>"},
            factors={"forward.input": 4.0},
            backward="rounded",
        ),
        seed=0,
    )
    results = []
    for layer in (plain, rounded):
        given = x.clone().requires_grad_()
        y = layer(given)
        y.square().sum().backward()
        results.append([y, given.grad, layer.weight.grad, layer.bias.grad])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=1e-4)


FORWARD = Recipe(
    operands={"forward.input": NEAR, "forward.weight": NEAR},
    transforms={"forward": "hadamard<32>"},
    backward="rounded",
)


def test_the_mean_of_quartet_is_that_of_what_it_rounds() -> None:
    gradients = []
    for each, count in ((FORWARD, 1), ("quartet", 32)):
        torch.manual_seed(0)
        layer, x = nn.Linear(64, 32), torch.randn(64, 64)
        emulate(layer, None, each, seed=0)
        draws = [
            torch.autograd.grad(layer(x).square().sum(), layer.weight)[0] for _ in range(count)
        ]
        gradients.append(torch.stack(draws))
    assert not torch.equal(gradients[1][0], gradients[1][1])
    exact, mean = (draws.mean(0).flatten() for draws in gradients)
    assert torch.cosine_similarity(mean, exact, 0) > 0.99
    assert abs((mean @ exact) / (exact @ exact) - 1) < 0.03


def test_masks_in_compiled_graphs_have_the_same_bits() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 32), torch.randn(32, 64)
    emulate(layer, None, FORWARD)
    torch._dynamo.reset()
    results = []
    for run in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
        layer.zero_grad()
        run(x).sum().backward()
        results.append(layer.weight.grad.clone())  # type: ignore[union-attr]
    assert torch.equal(*results)


def test_it_is_plain_strings_and_refused_where_it_cannot_be() -> None:
    made = recipe("quartet")
    assert made.backward == "rounded"
    assert Recipe.from_dict(made.to_dict()) == made
    assert "operands as rounded forward" in str(made)
    with pytest.raises(ValueError, match="this recipe rounds neither of its operands"):
        Recipe(operands={"error": "bfp8"}, backward="rounded")
    with pytest.raises(ValueError, match="delayed scaling of what it hands on"):
        Recipe(
            operands={"input": "block<e4m3fn,scale=float<8,23>>"},
            scaling="delayed<4>",
            backward="rounded",
        )
    with pytest.raises(ValueError, match="backward, where it is not None, must be"):
        Recipe(operands={"input": "bfp8"}, backward="clipped")


def test_the_rule_is_no_ones_own() -> None:
    with pytest.raises(ValueError, match="'quest' is built in"):
        q.register_scale_rule("quest", lambda b: b.amax)
    with pytest.raises(ValueError, match="no scale rule of that name"):
        q.unregister_scale_rule("quest")
