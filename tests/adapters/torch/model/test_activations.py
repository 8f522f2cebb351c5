"""Activations and errors: the core's bits, forward and backward, on the user's own model."""

import copy
import pickle

import pytest
import torch
from qemu_swalp_torch import COMPUTING_MODULES, disabled, quantize, quantize_activations
from torch import nn

import qemu_swalp
from qemu_swalp import RandomBits, stream_id
from qemu_swalp.training import Quantizer, Recipe

STOCHASTIC = Recipe(activation="bfp<4,axis=0>/stochastic", error="e4m3fn/stochastic")
NEAREST = Recipe(activation="fixed<8,4>/nearest_even", error="e5m2/nearest_even")


def mlp():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))


def by_hand(model, x, recipe, seed, call):
    """Output and gradients of mlp() with rounding after every ReLU, written out with the core's
    quantize.
    """
    inputs, outputs = [], [x]
    for place, module in enumerate(model, start=1):
        a = outputs[-1].detach().requires_grad_()
        inputs.append(a)
        y = module(a)
        if isinstance(module, nn.ReLU) and recipe.activation:
            random = RandomBits(seed, stream_id("activation", place), call)
            outputs.append(recipe.activation(y, random))
            inputs[-1] = (a, y)
        else:
            outputs.append(y)
            inputs[-1] = (a, y)
    gradient = torch.ones_like(outputs[-1])
    for place, module in reversed(list(enumerate(model, start=1))):
        a, y = inputs[place - 1]
        if isinstance(module, nn.ReLU) and recipe.error:
            gradient = recipe.error(gradient, RandomBits(seed, stream_id("error", place), call))
        y.backward(gradient)
        gradient = a.grad
    return outputs[-1], gradient


@pytest.mark.parametrize(
    "recipe",
    [
        STOCHASTIC,
        NEAREST,
        Recipe(activation="e4m3fn/stochastic"),
        Recipe(error="bfp<8,axis=0>/stochastic"),
    ],
    ids=["stochastic", "nearest", "activation", "error"],
)
@pytest.mark.parametrize("elements", [1 << 16, -1], ids=["as NumPy views", "as tensors"])
def test_forward_and_backward_have_the_cores_bits(same, monkeypatch, recipe, elements):
    monkeypatch.setattr("qemu_swalp.interop.torch.HOST_ELEMENTS", elements)
    model, plain = mlp(), mlp()
    quantize_activations(model, recipe, modules=nn.ReLU, seed=2**64 - 1)
    for call in range(3):
        x = torch.randn(5, 4, requires_grad=True)
        model.zero_grad(set_to_none=True)
        plain.zero_grad(set_to_none=True)
        y = model(x)
        y.sum().backward()
        expected, gradient = by_hand(plain, x, recipe, 2**64 - 1, call)
        same(y, expected)
        same(x.grad, gradient)
        for p, q in zip(model.parameters(), plain.parameters(), strict=True):
            same(p.grad, q.grad)


def test_the_state_dict_is_untouched():
    model = mlp()
    keys = list(model.state_dict())
    quantize_activations(model, STOCHASTIC)
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize(
    "copying",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
    ids=["deepcopy", "pickle"],
)
def test_copies_are_quantized_alike_and_count_for_themselves(same, copying):
    model, x = mlp(), torch.randn(5, 4)
    quantize_activations(model, STOCHASTIC)
    model(x)
    other = copying(model)
    for _ in range(2):
        same(model(x), other(x))
    model(x)
    assert not torch.equal(model(x), other(x))


def test_removal_and_disabling_give_the_plain_model_back(same):
    model, x = mlp(), torch.randn(5, 4)
    plain = mlp()(x)
    with quantize_activations(model, NEAREST) as handle:
        quantized = model(x)
        assert not torch.equal(quantized, plain)
        with disabled(copy.deepcopy(model)) as other:
            same(other(x), plain)
        with disabled(model):
            with disabled(model):
                same(model(x), plain)
            same(model(x), plain)
        with pytest.raises(KeyError), disabled(model):
            raise KeyError
        same(model(x), quantized)
    same(model(x), plain)
    handle.remove()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_disabling_leaves_the_random_bits_in_place(same):
    runs = []
    for pause in (False, True):
        model, x = mlp(), torch.ones(5, 4)
        quantize_activations(model, STOCHASTIC, seed=0)
        model(x)
        if pause:
            with disabled(model):
                model(x)
        runs.append(model(x))
    same(*runs)


def test_a_resumed_run_has_the_bits_of_an_unbroken_one(same):
    x = torch.ones(5, 4)
    model, other = mlp(), mlp()
    a, b = quantize_activations(model, STOCHASTIC), quantize_activations(other, STOCHASTIC)
    for _ in range(3):
        model(x)
    b.load_state_dict(a.state_dict())
    same(model(x), other(x))
    with pytest.raises(ValueError, match="the state is of other modules"):
        b.load_state_dict({"0": 3})
    before, record = b.state_dict(), a.state_dict()["0"]
    for key, value in (("training", -1), ("evaluation", 2**30), ("seed", 2**64)):
        with pytest.raises(ValueError, match=rf"state\['0'\]\['{key}'\] must be from 0"):
            b.load_state_dict({**a.state_dict(), "0": {**record, key: value}})
    for damaged in (3, {}, {**record, "more": 0}):
        with pytest.raises(ValueError, match=r"state\['0'\] must have the keys seed, training"):
            b.load_state_dict({**a.state_dict(), "0": damaged})
    assert b.state_dict() == before


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(1, 2, 3),
            nn.BatchNorm1d(2),
            nn.GELU(),
            nn.Flatten(),
            nn.Dropout(),
            nn.MaxPool1d(2),
        )
        self.lstm = nn.LSTM(2, 3)
        self.head = nn.Linear(2, 1)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["body.0", "body.1", "body.2", "head"]),
        ({"exclude": "head"}, ["body.0", "body.1", "body.2"]),
        ({"exclude": ("head", nn.BatchNorm1d)}, ["body.0", "body.2"]),
        ({"modules": nn.GELU}, ["body.2"]),
        ({"modules": (nn.GELU, nn.Linear)}, ["body.2", "head"]),
        ({"modules": [nn.GELU, "he*"]}, ["body.2", "head"]),
        (
            {
                "modules": "body.*",
                "exclude": lambda name, module: module.training and name != "body.4",
            },
            None,
        ),
        ({"modules": lambda name, module: isinstance(module, nn.LSTM)}, ["lstm"]),
    ],
)
def test_modules_are_chosen_by_type_name_and_predicate(options, names):
    if names is None:
        names = ["body.4"]
    assert quantize_activations(Nested(), NEAREST, **options).names == names


def test_overrides_go_by_the_name_of_the_output():
    recipe = Recipe(
        activation="bf16/stochastic",
        overrides={"head.*": None, "body.0.*": Recipe(activation="e5m2/nearest_even")},
    )
    handle = quantize_activations(Nested(), recipe)
    assert handle.names == ["body.0", "body.1", "body.2"]
    assert [site.activation for site in handle.sites] == [
        "e5m2/nearest_even",
        *["bf16/stochastic_a"] * 2,
    ]


def test_outputs_in_tuples_and_dicts_are_rounded_each_with_its_own_bits(on_grid):
    class Many(nn.Module):
        def forward(self, x):
            return {"a": x, "rest": (x, [x, torch.tensor([1]), None])}

    model = Many()
    quantize_activations(model, Recipe(activation="fixed<8,1>/stochastic"), modules=Many)
    out = model(torch.full((64,), 0.3))
    first, second, third = out["a"], out["rest"][0], out["rest"][1][0]
    assert all(on_grid(t, "fixed<8,1>") for t in (first, second, third))
    assert len({tuple(t.tolist()) for t in (first, second, third)}) == 3
    assert out["rest"][1][1].dtype == torch.int64
    assert out["rest"][1][2] is None
    lstm = nn.LSTM(2, 3)
    quantize_activations(lstm, Recipe(activation="fixed<8,4>/stochastic"), modules=nn.LSTM)
    y, (h, c) = lstm(torch.randn(4, 2))
    assert all(on_grid(t, "fixed<8,4>") for t in (y, h, c))


def test_in_place_modules_after_a_site(on_grid):
    for recipe in (NEAREST, Recipe(error="e5m2/nearest_even")):
        model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Linear(3, 1))
        quantize_activations(model, recipe)
        model(torch.randn(2, 3)).sum().backward()
        assert on_grid(model[2].bias.grad, "e5m2")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(on_grid, dtype):
    model = mlp().to(dtype)
    quantize_activations(model, Recipe(activation="e4m3fn/stochastic", error="e4m3fn/stochastic"))
    y = model(torch.randn(2, 4, dtype=dtype))
    y.sum().backward()
    assert y.dtype == dtype
    assert on_grid(y, "e4m3fn")


class TestFunctional:
    def test_has_the_cores_bits_and_a_straight_through_gradient(self, same):
        x = torch.randn(3, 5, requires_grad=True)
        bits = RandomBits(1, 2, 3)
        y = quantize(x, "e4m3fn", "stochastic", random=bits)
        same(y, qemu_swalp.quantize(x.detach(), "e4m3fn", "stochastic", random=bits))
        upstream = torch.randn(3, 5)
        y.backward(upstream)
        same(x.grad, upstream)

    def test_rounds_the_gradient(self, same):
        x, upstream = torch.randn(3, 5, requires_grad=True), torch.randn(3, 5)
        for backward in ("e5m2/stochastic", Quantizer("e5m2/stochastic")):
            y = quantize(x, None, backward=backward, backward_random=RandomBits(4, offset=3))
            same(y, x)
            (gradient,) = torch.autograd.grad(y, x, upstream)
            same(
                gradient,
                qemu_swalp.quantize(upstream, "e5m2", "stochastic", random=RandomBits(4, offset=3)),
            )

    def test_can_be_differentiated_twice(self):
        x = torch.tensor([0.3, 0.7], requires_grad=True)
        y = quantize(x, "fixed<8,2>", backward="fixed<8,4>/nearest_even") ** 3
        (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        g.sum().backward()
        assert x.grad.tolist() == [6 * 0.25, 6 * 0.75]

    def test_errors(self):
        x = torch.ones(2)
        for call, kind, words in (
            (
                lambda: quantize([1.0], "bf16"),
                TypeError,
                "x must be a torch.Tensor, got builtins.list",
            ),
            (
                lambda: quantize(x, "bf16", "stochastic"),
                ValueError,
                r"bf16/stochastic_a needs random=RandomBits\(seed",
            ),
            (
                lambda: quantize(x, "bf16", backward="bf16/stochastic"),
                ValueError,
                "bf16/stochastic_a needs backward_random=",
            ),
            (lambda: quantize(x, "bf17"), ValueError, "unknown format 'bf17'; did you mean 'bf16'"),
            (lambda: quantize(x, "bf16", backward=3), TypeError, "a quantizer must be a Quantizer"),
            (
                lambda: quantize(torch.ones(2, dtype=torch.int32), "bf16"),
                TypeError,
                "got dtype int32",
            ),
            (
                lambda: quantize(x.to_sparse_coo(), "bf16"),
                TypeError,
                "x has the layout torch.sparse_coo",
            ),
        ):
            with pytest.raises(kind, match=words):
                call()


def test_errors():
    for call, kind, words in (
        (
            lambda: quantize_activations(3, NEAREST),
            TypeError,
            "model must be a torch.nn.Module, got builtins.int",
        ),
        (
            lambda: quantize_activations(mlp(), "bfp8"),
            ValueError,
            "or the name of a preset, one of swalp8, .*got 'bfp8'",
        ),
        (
            lambda: quantize_activations(mlp(), 8),
            TypeError,
            "recipe must be a qemu_swalp.training.Recipe",
        ),
        (
            lambda: quantize_activations(mlp(), Recipe(weight="bfp8/stochastic")),
            ValueError,
            "nothing to round: quantize_activations applies the section .activations.",
        ),
        (
            lambda: quantize_activations(mlp(), NEAREST, modules=nn.Tanh),
            ValueError,
            "modules=.*Tanh",
        ),
        (
            lambda: quantize_activations(mlp(), NEAREST, modules=3),
            TypeError,
            "take module types, patterns of .*got 3",
        ),
        (lambda: quantize_activations(mlp(), NEAREST, seed=-1), ValueError, "seed must be from 0"),
    ):
        with pytest.raises(kind, match=words):
            call()
    model = mlp()
    quantize_activations(model, NEAREST, modules=nn.ReLU)
    with pytest.raises(ValueError, match="the output of '1' is rounded already; remove"):
        quantize_activations(model, NEAREST)
    assert not model[0]._forward_hooks
    quantize_activations(model, NEAREST, exclude=nn.ReLU)


def test_the_default_covers_every_nonlinearity_of_pytorch():
    kinds = {getattr(nn, name) for name in nn.modules.activation.__all__} - {nn.MultiheadAttention}
    assert all(issubclass(kind, COMPUTING_MODULES) for kind in kinds)
    assert not issubclass(nn.MaxPool2d, COMPUTING_MODULES)


class Block(nn.Module):
    """The sum of a residual block, which no module gives, goes into `norm`."""

    def __init__(self):
        super().__init__()
        self.fc, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

    def forward(self, x):
        return self.norm(x + self.fc(x))


def test_residual_sums_are_rounded_as_inputs_of_what_follows(same, on_grid):
    torch.manual_seed(0)
    model = Block()
    seen = []
    handle = quantize_activations(model, STOCHASTIC, modules=(), inputs="norm", seed=3)
    model.norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.randn(3, 4)
    model(x)
    assert handle.names == ["norm.input"]
    total = (x + model.fc(x)).detach()
    same(
        seen[0], STOCHASTIC.activation(total, RandomBits(3, stream_id("activation.input.0", 2), 0))
    )
    with pytest.raises(
        ValueError, match=r"the input of 'norm' is rounded already; remove\(\) its handle first"
    ):
        quantize_activations(model, STOCHASTIC, modules=(), inputs=nn.LayerNorm)
    both = quantize_activations(model, NEAREST, inputs="fc")
    assert both.names == ["fc.input", "fc", "norm"]


def test_the_default_covers_attention_but_not_the_projection_within():
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation=nn.GELU())
    assert quantize_activations(layer, NEAREST).names == [
        "self_attn",
        "linear1",
        "linear2",
        "norm1",
        "norm2",
        "activation",
    ]
