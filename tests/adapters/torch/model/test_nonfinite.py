"""Overflow in float16 autocast is seen behind quantized products (clause BLK-13)."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from qemu_swalp_torch import quantize_activations, quantize_elementwise, quantize_gemms

from qemu_swalp.training import Recipe


def train(recipe: str | Recipe | None, steps: int = 12) -> tuple[list[float], torch.nn.Module]:
    """The scale of a GradScaler after each step, and the network, whose layers have no biases."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(32, 32, bias=False), torch.nn.SiLU(), torch.nn.Linear(32, 4, bias=False)
    )
    if recipe is not None:
        quantize_gemms(model, recipe)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    scales = []
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = (model(torch.randn(8, 32)) * 30).float().square().sum()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return scales, model


SATURATING = "float<5,2,overflow=saturate>"


@pytest.mark.parametrize(
    "recipe", ["mxfp8", "nvfp4", "mxfp4", Recipe(operands={"error": SATURATING, "input": "e4m3fn"})]
)
def test_the_scale_comes_down(recipe: str | Recipe) -> None:
    """As without emulation: it halves until the gradients are finite, and then training goes on."""
    plain, _ = train(None)
    scales, model = train(recipe)
    before = train(recipe, 0)[1]
    assert scales[0] == plain[0] == 2.0**15
    assert scales[-1] <= 4 * plain[-1]
    assert any(a == b for a, b in itertools.pairwise(scales))
    for weight, first in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.isfinite(weight).all()
        assert not torch.equal(weight, first)


@pytest.mark.parametrize("of_products", [False, True])
def test_errors_in_float16_show_that_they_overflowed(of_products: bool) -> None:
    """Whatever their format; in float32, which no scaler watches, the format saturates."""
    layer = torch.nn.Linear(4, 4, bias=False)
    torch.nn.init.eye_(layer.weight)
    if of_products:
        quantize_gemms(layer, Recipe(operands={"dgrad.error": SATURATING}))
    else:
        quantize_activations(layer, Recipe(error=SATURATING), modules=torch.nn.Linear)
    for dtype in (torch.float16, torch.float32):
        layer.to(dtype)
        x = torch.ones(1, 4, dtype=dtype, requires_grad=True)
        error = torch.tensor([[1.0, float("inf"), 3.0, 2.0]], dtype=dtype)
        (gradient,) = torch.autograd.grad(layer(x), x, error)
        assert bool(gradient.isfinite().all()) == (dtype == torch.float32)


SUMS = "fixed<8,4>/nearest_even"
DELAYED = Recipe(
    operands={"error": "block<e5m2,scale=float<8,23>>"}, scaling={"error": "delayed<16>"}
)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("recipe", [Recipe(sums=SUMS), DELAYED], ids=["sums", "delayed"])
def test_sums_and_delayed_scales_hide_no_overflow(recipe: Recipe, compiled: bool) -> None:
    """Of the first call and of later ones, in the gradients of input and weight."""
    for dtype in (torch.float16, torch.float32):
        layer = torch.nn.Linear(4, 4, bias=False, dtype=dtype)
        quantize_gemms(layer, recipe)
        run = torch.compile(layer, backend="aot_eager", fullgraph=True) if compiled else layer
        for value in (1.0, float("inf"), float("inf")):
            x = torch.ones(2, 4, dtype=dtype, requires_grad=True)
            error = torch.ones(2, 4, dtype=dtype)
            error[0, 0] = value
            gradients = torch.autograd.grad(run(x), (x, layer.weight), error)
            finite = [bool(gradient.isfinite().all()) for gradient in gradients]
            if dtype == torch.float16 or value == 1:
                assert finite == [value == 1] * 2


@pytest.mark.parametrize("function", [torch.tanh, lambda x: torch.softmax(x, -1), lambda x: x * x])
def test_elementwise_operations_hide_no_overflow(function: Callable[..., torch.Tensor]) -> None:
    """In float32 they saturate."""

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return function(x)

    model = Model()
    quantize_elementwise(model, Recipe(elementwise="e4m3fn/nearest_even"))
    for dtype in (torch.float16, torch.float32):
        x = torch.ones(4, dtype=dtype, requires_grad=True)
        error = torch.tensor([float("inf"), 1, 1, 1], dtype=dtype)
        (gradient,) = torch.autograd.grad(model(x), x, error)
        assert bool(gradient.isfinite().all()) == (dtype == torch.float32)
