"""Without a seed, each optimizer, model and average draws random bits of its own, at each run of a
program the same (clause RNG-6).
"""

import copy
import io

import pytest
import torch
from qemu_swalp_torch import (
    SGD,
    Averager,
    quantize_activations,
    quantize_elementwise,
    quantize_gemms,
    quantize_optimizer,
)
from torch import nn

import qemu_swalp as q
from qemu_swalp.random_bits import philox_words
from qemu_swalp.training import EMA, Recipe, restart_seeds

RECIPE = Recipe(
    weight="fixed<8,4>/stochastic",
    activation="fixed<8,2>/stochastic",
    operands={"input": "fixed<8,2>/stochastic"},
    elementwise="e5m2/stochastic",
)
X = torch.linspace(-1, 1, 400).reshape(100, 4)


def optimizer(seed=None):
    w = nn.Parameter(torch.linspace(0, 1, 200))
    opt = quantize_optimizer(torch.optim.SGD([w], 0.1), RECIPE, seed=seed)
    return opt, lambda: (setattr(w, "grad", torch.ones_like(w)), opt.step(), w.detach().clone())[2]


def ours(seed=None):
    w = nn.Parameter(torch.linspace(0, 1, 200))
    opt = SGD([w], 0.1, recipe=RECIPE, seed=seed)
    return opt, lambda: (setattr(w, "grad", torch.ones_like(w)), opt.step(), w.detach().clone())[2]


def on_model(call):
    def make(seed=None):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        return call(model, RECIPE, seed=seed), lambda: model(X).detach()

    return make


def average(seed=None):
    w = torch.linspace(0, 1, 200)
    averager = Averager({"w": w}, quantizer="fixed<8,4>/stochastic", seed=seed)
    return averager, lambda: (averager.update(), averager.average()["w"])[1]


def policy(seed=None):
    w = torch.linspace(0, 1, 200)
    averager = Averager(
        {"w": w}, policy=EMA(decay=0.5, quantizer="fixed<8,4>/stochastic", seed=seed)
    )
    return averager, lambda: (averager.update(), averager.average()["w"])[1]


KINDS = {
    "optimizer": optimizer,
    "our SGD": ours,
    "activations": on_model(quantize_activations),
    "products": on_model(quantize_gemms),
    "elementwise": on_model(quantize_elementwise),
    "average": average,
    "policy": policy,
}
each_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


@each_kind
def test_two_differ_and_the_next_run_has_the_same(same, make):
    first, second = make()[1](), make()[1]()
    assert not torch.equal(first, second)
    restart_seeds()
    same(make()[1](), first)
    same(make()[1](), second)


@each_kind
def test_the_first_is_seed_0_and_seeds_that_are_given_use_up_none(same, make):
    given = make(seed=0)[1]()
    same(make()[1](), given)
    assert not torch.equal(make()[1](), given)


@each_kind
def test_resuming_brings_the_seed(same, make):
    make()
    run, step = make()
    step()
    file = io.BytesIO()
    torch.save(run.state_dict(), file)
    file.seek(0)
    restart_seeds()
    resumed, again = make()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    if isinstance(run, torch.optim.Optimizer):
        weights = run.param_groups[0]["params"][0].detach()
        resumed.param_groups[0]["params"][0].data.copy_(weights)
    same(again(), step())


@pytest.mark.parametrize("make", [optimizer, ours])
def test_copies_keep_the_seed(same, make):
    make()
    opt, step = make()
    other = copy.deepcopy(opt)
    (w,) = other.param_groups[0]["params"]
    w.grad = torch.ones_like(w)
    other.step()
    same(w.detach(), step())


def test_copies_of_models_keep_the_seed(same):
    make = KINDS["activations"]
    make()
    handle, run = make()
    other = copy.deepcopy(handle.model)
    same(other(X).detach(), run())


def test_what_is_refused_uses_up_no_seed(same):
    expected = KINDS["products"]()[1]()
    restart_seeds()
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    with pytest.raises(ValueError, match="nothing to round"):
        quantize_gemms(model, RECIPE, exclude="*")
    same(KINDS["products"]()[1](), expected)


def test_the_second_seed_is_that_of_the_specification(same):
    model = nn.Sequential(nn.ReLU())
    quantize_activations(nn.Sequential(nn.ReLU()), RECIPE)
    quantize_activations(model, RECIPE)
    low, high, _, _ = philox_words((1, 0, 0, 0), (int.from_bytes(b"seed"), 0))
    random = q.RandomBits(high << 32 | low, q.stream_id("activation", 1))
    same(model(X), q.quantize(X.relu(), "fixed<8,2>", "stochastic", random=random))


def test_models_of_different_seeds_compile_to_their_eager_bits(same):
    compiled, eager = [], []
    for results in (compiled, eager):
        restart_seeds()
        for _ in range(3):
            model = KINDS["activations"]()[0].model
            run = torch.compile(model, fullgraph=True, backend="aot_eager")
            results.append((run if results is compiled else model)(X).detach())
    for a, b in zip(compiled, eager, strict=True):
        same(a, b)


@pytest.mark.parametrize("seed", [-1, 2**64, "0", True])
@each_kind
def test_seeds_are_checked(make, seed):
    with pytest.raises((TypeError, ValueError), match="seed must be"):
        make(seed)
