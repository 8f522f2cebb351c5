"""Activation checkpointing: a recomputation has the bits of the forward that it repeats, or says
that it cannot know them.
"""

import pytest
import torch
from qemu_swalp_torch import quantize_activations, quantize_elementwise, quantize_gemms
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from qemu_swalp.training import Recipe

RECIPE = Recipe(activation="fixed<8,1>/stochastic", error="fixed<8,3>/stochastic")


class Model(nn.Module):
    def __init__(self, mode, shared=False):
        super().__init__()
        torch.manual_seed(0)
        act = nn.Tanh()
        self.a = nn.Sequential(nn.Linear(3, 8), act, nn.Linear(8, 8), act if shared else nn.Tanh())
        self.b = nn.Sequential(nn.Linear(8, 8), act if shared else nn.Tanh())
        self.mode, self.context = mode, {}

    def forward(self, x):
        for part in (self.a, self.b):
            x = (
                part(x)
                if self.mode is None
                else checkpoint(part, x, use_reentrant=self.mode == "reentrant", **self.context)
            )
        return x


def gradients(model):
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    return found


@pytest.mark.parametrize("mode", ["reentrant", "not reentrant"])
def test_a_recomputation_repeats_the_bits(same, mode):
    models = [Model(None), Model(mode)]
    for model in models:
        quantize_activations(model, RECIPE, seed=0)
    for _ in range(3):
        x = torch.randn(4, 3, requires_grad=True)
        results = []
        for model in models:
            y = model(x)
            with torch.no_grad():
                model(x)
            y.sum().backward()
            results.append(gradients(model))
        for a, b in zip(*results, strict=True):
            same(a, b)


def test_a_model_checkpointed_as_a_whole(same):
    models, results = [Model(None), Model(None)], []
    x = torch.randn(4, 3)
    for model, run in zip(
        models, (lambda m: m(x), lambda m: checkpoint(m, x, use_reentrant=False)), strict=True
    ):
        quantize_activations(model, RECIPE, inputs=Model, seed=0)
        for _ in range(2):
            run(model).sum().backward()
        results.append(gradients(model))
    for a, b in zip(*results, strict=True):
        same(a, b)


@pytest.mark.parametrize(("shared", "forwards"), [(True, 1), (False, 2), (True, 2)])
def test_what_is_ambiguous_is_refused_and_exact_with_contexts(same, shared, forwards):
    results = []
    for mode in (None, "not reentrant"):
        model = Model(mode, shared)
        handle = quantize_activations(model, RECIPE, seed=0)
        model.context = {"context_fn": handle.checkpoint_contexts}
        for _ in range(2):
            torch.manual_seed(3)
            loss = sum(model(torch.randn(4, 3)).sum() for _ in range(forwards))
            loss.backward(retain_graph=True)
            loss.backward()
        results.append(gradients(model))
        calls = {record["training"] for record in handle.state_dict().values()}
    for a, b in zip(*results, strict=True):
        same(a, b)
    assert calls <= {2 * forwards, 6 * forwards}

    model.context = {}
    if (
        not shared
    ):  # a backward in which every forward had its context leaves nothing ambiguous behind
        model(torch.randn(4, 3)).sum().backward()
    model = Model("not reentrant", shared)
    quantize_activations(model, RECIPE, seed=0)
    with pytest.raises(
        RuntimeError,
        match=r"is ambiguous, and so are .*; pass context_fn=handle\.checkpoint_contexts",
    ):
        sum(model(torch.randn(4, 3)).sum() for _ in range(forwards)).backward()


def test_deterministic_rounding_is_never_ambiguous():
    model = Model("not reentrant", shared=True)
    quantize_activations(
        model, Recipe(activation="fixed<8,1>/nearest_even", error="bf16/nearest_even")
    )
    sum(model(torch.randn(4, 3)).sum() for _ in range(2)).backward()
    assert not model._forward_pre_hooks


class OwnCode(nn.Module):
    """A module that checkpoints functions of its own, one within the other."""

    def __init__(self, mode):
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.mode = nn.Linear(8, 8), mode
        self.a, self.b, self.c, self.d, self.e = (nn.Parameter(torch.randn(8, 8)) for _ in range(5))

    def checkpointed(self, function, x):
        if self.mode is None:
            return function(x)
        return checkpoint(function, x, use_reentrant=self.mode == "reentrant")

    def inner(self, x):
        return torch.tanh(x @ self.c.t() @ self.d).square()

    def outer(self, x):
        return self.checkpointed(self.inner, F.linear(self.fc(x), self.b).relu() * 0.5)

    def forward(self, x):
        return self.checkpointed(self.outer, x @ self.a) @ self.e + x


SECTIONS = {
    "products": Recipe(
        operands={
            "input": "e2m1fn/stochastic",
            "weight": "e4m3fn/stochastic",
            "error": "e5m2/stochastic",
        }
    ),
    "elementwise": Recipe(elementwise="bf16/stochastic"),
}
CALLS = {"products": quantize_gemms, "elementwise": quantize_elementwise}


@pytest.mark.parametrize("mode", ["reentrant", "not reentrant"])
@pytest.mark.parametrize("sections", [["products"], ["elementwise"], ["products", "elementwise"]])
def test_a_function_that_a_module_checkpoints_is_recomputed_by_its_rules(same, mode, sections):
    results = []
    for model in (OwnCode(None), OwnCode(mode)):
        for section in sections:
            CALLS[section](model, SECTIONS[section], seed=0)
        x = torch.linspace(-1, 1, 32).reshape(4, 8).requires_grad_()
        for _ in range(2):
            model(x).sum().backward(retain_graph=mode != "reentrant")
        results.append([x.grad, *gradients(model)])
    for a, b in zip(*results, strict=True):
        same(a, b)


class Forces(nn.Module):
    """A model of energies that returns forces as well, by a backward within its forward."""

    def __init__(self, derivative, checkpointed):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = (nn.Parameter(torch.randn(8, 8)) for _ in range(2))
        self.derivative, self.checkpointed = derivative, checkpointed

    def layers(self, x):
        return torch.tanh(x @ self.first) @ self.second

    def energy(self, x):
        if not self.checkpointed:
            return self.layers(x).sum()
        return checkpoint(self.layers, x, use_reentrant=False).sum()

    def forward(self, x):
        return self.energy(x) if self.derivative is None else self.derivative(self.energy(x), x)


def by_grad(energy, x):
    return torch.autograd.grad(energy, x, create_graph=True)[0]


def by_backward(energy, x):
    torch.autograd.backward(energy, inputs=[x])
    force, x.grad = x.grad, None
    return force


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("derivative", [by_grad, by_backward])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_backward_within_a_forward_is_that_of_one_outside(
    same, section, derivative, checkpointed
):
    x = torch.linspace(-1, 1, 32).reshape(4, 8).requires_grad_()
    within, outside = Forces(derivative, checkpointed), Forces(None, False)
    for model in (within, outside):
        CALLS[section](model, SECTIONS[section], seed=0)
    forces, expected = within(x), derivative(outside(x), x)
    same(forces, expected)
    if derivative is by_grad:
        forces.square().sum().backward()
        expected.square().sum().backward()
        for a, b in zip(gradients(within), gradients(outside), strict=True):
            same(a, b)
