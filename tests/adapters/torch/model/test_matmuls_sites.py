"""Which products are rounded: choice, copies, recomputation, resuming, registration, errors."""

import copy
import pickle

import pytest
import torch
from qemu_swalp_torch import Matmul, disabled, quantize_activations, quantize_gemms, register_gemms
from qemu_swalp_torch.ops.matmul import linear
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from qemu_swalp.training import Quantizer, Recipe
from tests.helpers.products import NEAREST, STOCHASTIC, gradients, net, rounder


def test_state_dict_and_plain_results_come_back(same):
    model, x = net(), torch.randn(3, 2, 4, 4)
    keys, plain = list(model.state_dict()), model(x)
    with quantize_gemms(model, NEAREST) as handle:
        assert handle.names == ["0", "3", "5"]
        assert list(model.state_dict()) == keys
        quantized = model(x)
        assert not torch.equal(quantized, plain)
        with disabled(model):
            same(model(x), plain)
        same(model(x), quantized)
    same(model(x), plain)
    handle.remove()
    assert not any("forward" in m.__dict__ or m._forward_pre_hooks for m in model.modules())
    quantize_gemms(model, NEAREST)
    same(model(x), quantized)


@pytest.mark.parametrize(
    "copying",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
    ids=["deepcopy", "pickle"],
)
def test_copies_are_quantized_alike_with_their_own_weights(same, copying):
    model, x = net(), torch.randn(3, 2, 4, 4)
    quantize_gemms(model, STOCHASTIC)
    model(x)
    other = copying(model)
    same(model(x), other(x))
    with torch.no_grad():
        other[5].weight.zero_()
        other[5].bias.zero_()
    assert not other(x).any()
    assert model(x).any()


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"exclude": "5"}, ["0", "3"]),
        ({"modules": nn.Linear}, ["3", "5"]),
        ({"modules": lambda name, module: name == "0"}, ["0"]),
    ],
)
def test_modules_are_chosen(options, names):
    assert quantize_gemms(net(), NEAREST, **options).names == names


def test_overrides_go_by_the_name_of_the_operands(same):
    errors = Recipe(operands={"error": "e5m2/stochastic"})
    handle = quantize_gemms(
        net(),
        Recipe(
            operands={"input": "bf16/stochastic"}, overrides={"0.*": None, "3.operands": errors}
        ),
    )
    assert handle.names == ["3", "5"]
    assert [q for q in handle.sites[0].quantizers.values() if q] == ["e5m2/stochastic_a"] * 2


class Checkpointed(nn.Module):
    def __init__(self, mode):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.mode = (
            nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU()),
            mode,
        )
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        y = self.body(x) if self.mode is None else checkpoint(self.body, x, **self.mode)
        return self.head(y)


@pytest.mark.parametrize("mode", ["reentrant", "not reentrant", "contexts"])
def test_a_recomputation_repeats_the_bits_of_operands_and_activations(same, mode):
    results = []
    for checkpointing in (False, True):
        model = Checkpointed(None)
        quantize_activations(
            model,
            Recipe(activation="fixed<8,3>/stochastic", error="fixed<8,5>/stochastic"),
            modules=nn.ReLU,
            seed=0,
        )
        handle = quantize_gemms(model, STOCHASTIC, seed=0)
        if checkpointing:
            model.mode = {"use_reentrant": mode == "reentrant"}
        if checkpointing and mode == "contexts":
            model.mode["context_fn"] = handle.checkpoint_contexts
        for call in range(3):
            x = torch.randn(5, 4, generator=torch.Generator().manual_seed(call), requires_grad=True)
            found = gradients(model, model(x))
        results.append(found)
        assert {record["training"] for record in handle.state_dict().values()} == {3}
    same(*results)


def test_handles_share_a_clock_and_leave_it_one_by_one():
    model = net()
    a = quantize_activations(model, Recipe(activation="fixed<8,3>/stochastic"), modules=nn.ReLU)
    b = quantize_gemms(model, STOCHASTIC)
    assert len(model._forward_pre_hooks) == 1
    assert len(a.sites[0].clock.sites) == 5  # the ReLU, three layers, and the model itself
    a.remove()
    assert len(model._forward_pre_hooks) == 1
    b.remove()
    assert not model._forward_pre_hooks


def test_a_resumed_run_has_the_bits_of_an_unbroken_one(same):
    x = torch.randn(3, 2, 4, 4)
    models = net(), net()
    a, b = (quantize_gemms(model, STOCHASTIC) for model in models)
    models[0](x)
    b.load_state_dict(a.state_dict())
    same(*(model(x) for model in models))


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (
            lambda: quantize_gemms(3, NEAREST),
            TypeError,
            "model must be a torch.nn.Module, got builtins.int",
        ),
        (lambda: quantize_gemms(net(), "mxpf8"), ValueError, "got 'mxpf8'"),
        (
            lambda: quantize_gemms(net(), Recipe(weight="bfp8/stochastic")),
            ValueError,
            "nothing to round: quantize_gemms applies the section .products.",
        ),
        (lambda: quantize_gemms(nn.Sequential(Matmul()), NEAREST), ValueError, "nothing to round"),
        (lambda: quantize_gemms(net(), NEAREST, modules=nn.Tanh), ValueError, "nothing to round"),
        (
            lambda: quantize_gemms(net(), NEAREST, uncovered="never"),
            ValueError,
            "uncovered must be one of raise, warn, ignore, got 'never'",
        ),
        (lambda: quantize_gemms(net(), NEAREST, seed=-1), ValueError, "seed must be from 0"),
        (
            lambda: quantize_gemms(net(), NEAREST, attention=1),
            TypeError,
            "attention must be True or False, got 1",
        ),
    ],
)
def test_errors(call, kind, words):
    with pytest.raises(kind, match=words):
        call()


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.gate = (nn.Parameter(torch.randn(3, 4)) for _ in range(2))

    def forward(self, x):
        return (x @ self.up.t()) * (x @ self.gate.t()).sigmoid()


def gated(module, rules, x):
    up, gate = (
        linear(x, getattr(module, part), None, rules.of(f".{part}")) for part in ("up", "gate")
    )
    return up * gate.sigmoid()


class Registered(Gated):
    def forward(self, x):
        raise AssertionError("another forward is registered")


@pytest.mark.parametrize(("kind", "parts"), [(Gated, ("", ".1")), (Registered, (".up", ".gate"))])
def test_products_of_ones_own_modules(same, kind, parts):
    register_gemms(Registered, gated)
    model = nn.Sequential(kind(), nn.Linear(3, 2))
    assert quantize_gemms(model, STOCHASTIC, seed=6).names == ["0", "1"]
    x = torch.randn(5, 4)
    up, gate = (rounder(STOCHASTIC, 6, 1, 0, part) for part in parts)
    weights = model[0].up.detach(), model[0].gate.detach()
    expected = [
        F.linear(q("forward.input", x), q("forward.weight", w))
        for q, w in zip((up, gate), weights, strict=True)
    ]
    same(pickle.loads(pickle.dumps(model))[0](x), expected[0] * expected[1].sigmoid())


def test_errors_of_registration():
    register_gemms(Registered, gated)
    with pytest.raises(ValueError, match=r"the products of Registered\.forward are known already"):
        register_gemms(Registered, lambda module, rules, x: x)
    with pytest.raises(
        TypeError, match=r"a type of torch\.nn\.Module and a function are registered, got 3"
    ):
        register_gemms(3, gated)


def test_rounding_twice_is_refused_and_changes_nothing():
    model = net()
    quantize_gemms(model, NEAREST, modules="3")
    with pytest.raises(ValueError, match="the operands of '3' are rounded already; remove"):
        quantize_gemms(model, NEAREST)
    assert [name for name, m in model.named_modules() if "forward" in m.__dict__] == ["3"]


def test_quantizers_are_those_of_the_recipe():
    handle = quantize_gemms(net(), "fp8_hybrid", modules="3")
    assert handle.sites[0].quantizers["dgrad.error"] == str(
        Quantizer("block<float<5,2,overflow=saturate>,scale=float<8,23>>/nearest_even")
    )
