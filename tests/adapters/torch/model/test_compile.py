"""torch.compile: whole graphs with the eager bits, and hooks around a compiled step."""

import shutil

import pytest
import torch
from qemu_swalp_torch import (
    quantize,
    quantize_activations,
    quantize_elementwise,
    quantize_gemms,
    quantize_optimizer,
)
from torch import nn

from qemu_swalp import RandomBits, parse
from qemu_swalp.training import Quantizer, Recipe, swalp

RECIPES = {
    "nearest": Recipe(activation="bfp<8,axis=0>/nearest_even", error="e5m2/nearest_even"),
    "stochastic": Recipe(activation="bfp<8,axis=0>/stochastic", error="e5m2/stochastic"),
}


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))


@pytest.mark.parametrize("kind", RECIPES)
def test_a_quantized_model_compiles_as_one_graph(same, kind):
    model, eager = mlp(), mlp()
    for m in (model, eager):
        quantize_activations(m, RECIPES[kind], modules=nn.ReLU, seed=2**63 + 1)
    graphs = 0

    def backend(graph, inputs):
        nonlocal graphs
        graphs += 1
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for _ in range(5):
        x = torch.randn(4, 3)
        y, z = compiled(x), eager(x)
        same(y, z)
        y.sum().backward()
        z.sum().backward()
        for p, q in zip(model.parameters(), eager.parameters(), strict=True):
            same(p.grad, q.grad)
    assert graphs <= 2


@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
def test_inductors_backward_has_the_bits_of_the_same_call(same):
    """It recomputes what is cheap in the backward, where the counter of calls has moved on
    already.
    """
    model, eager = mlp(), mlp()
    for m in (model, eager):
        quantize_activations(m, RECIPES["stochastic"], modules=nn.ReLU, seed=0)
    for m in (torch.compile(model, fullgraph=True), eager):
        m(torch.linspace(-2, 2, 12).reshape(4, 3)).sum().backward()
    for p, q in zip(model.parameters(), eager.parameters(), strict=True):
        same(p.grad, q.grad)


def test_the_function_compiles_through_autograd(same):
    fine, coarse = parse("e4m3fn"), Quantizer("bf16", "to_odd")

    def function(x):
        return quantize(x * 2, fine, "stochastic", random=RandomBits(3, 2**63), backward=coarse)

    x = torch.randn(4, 3, requires_grad=True)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    results = []
    for f in (function, compiled):
        y = f(x)
        results.append((y, *torch.autograd.grad(y, x, torch.linspace(-1, 1, 12).reshape(4, 3))))
    for a, b in zip(*results, strict=True):
        same(a, b)


def test_a_compiled_step_is_quantized(same):
    results = []
    for compiling in (False, True):
        p = nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4))
        recipe = swalp(8).resolve(out=0)
        opt = quantize_optimizer(torch.optim.SGD([p], 0.125, momentum=0.5), recipe, seed=0)
        step = torch.compile(opt.step, backend="eager") if compiling else opt.step
        for i in range(3):
            p.grad = torch.full_like(p, 0.1 * i)
            step()
        results.append(p)
    same(*results)


def test_other_optimizers_compile_beside_ours():
    quantize_optimizer(torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1), swalp(8))
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    opt = torch.optim.SGD([p], 0.5)
    torch.compile(opt.step, backend="eager")()
    assert p.tolist() == [0.5] * 3


@pytest.mark.parametrize(
    "compiling",
    [torch.compile, lambda model: model.compile() or model],
    ids=["torch.compile", "compile()"],
)
def test_hooks_after_compilation_are_warned_of(compiling):
    with pytest.warns(UserWarning, match="torch.compile ignores hooks added later"):
        quantize_activations(compiling(mlp()), RECIPES["nearest"])


@pytest.mark.parametrize(
    "call",
    [
        lambda model: quantize_activations(model, Recipe(activation="e2m1")),
        lambda model: quantize_gemms(model, Recipe(operands={"weight": "e2m1"})),
        lambda model: quantize_elementwise(model, Recipe(elementwise="e2m1")),
    ],
    ids=["activations", "products", "elementwise"],
)
@pytest.mark.parametrize("way", ["wrapped", "in place"])
def test_what_was_compiled_before_is_compiled_anew(same, call, way):
    """As where a trained model is evaluated, rounded and evaluated again."""
    torch._dynamo.reset()
    model, x = nn.Sequential(mlp(), nn.Softmax(-1)), torch.randn(4, 3)
    run = torch.compile(model, backend="eager") if way == "wrapped" else model
    if way == "in place":
        model.compile(backend="eager")
    plain = run(x)
    with call(model):
        assert not torch.allclose(run(x), plain, rtol=1e-2)
    same(run(x), plain)
