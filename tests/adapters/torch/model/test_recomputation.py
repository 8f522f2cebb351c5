"""Activation checkpointing: a recomputation has the bits of the forward that it repeats, or says
that it cannot know them.
"""

import pytest
import torch
from qemu_swalp_torch import quantize_activations
from torch import nn
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
