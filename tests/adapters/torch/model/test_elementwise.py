"""Rounded elementwise operations in softmax, normalization and nonlinearities: by hand, as
PyTorch's, compiled and recomputed.
"""

import copy
import math

import numpy as np
import pytest
import torch
from qemu_swalp_torch import (
    disabled,
    quantize_elementwise,
    quantize_gemms,
    register_elementwise,
)
from qemu_swalp_torch.ops.elementwise import ElementwiseRules
from qemu_swalp_torch.ops.functional import ElementwiseFunctions
from torch import nn
from torch.nn import functional as F

import qemu_swalp as q
from qemu_swalp.training import ELEMENTWISE, Recipe, find_breaking_role

EXACT = ElementwiseFunctions(ElementwiseRules((None,) * len(ELEMENTWISE), 0, 0, 0))
NEAREST = Recipe(elementwise="float<6,9>/nearest_even")
STOCHASTIC = Recipe(
    elementwise={
        "add": "fp16/stochastic",
        "function": "e5m2/stochastic",
        "sum": "fp16/stochastic; group=2",
        "multiply": "bf16/stochastic",
    }
)
BOTH = pytest.mark.parametrize("recipe", [NEAREST, STOCHASTIC], ids=["nearest", "stochastic"])


class Hand:
    """Steps of one direction of one call, one after the other, in NumPy's float64, which is exact
    enough for formats of few bits: whatever lies half way there lies half way.
    """

    def __init__(self, recipe, direction, place, call=0, part="", seed=0):
        self.recipe, self.direction, self.place, self.call, self.part, self.seed = (
            recipe,
            direction,
            place,
            call,
            part,
            seed,
        )
        self.count = 0

    def __call__(self, kind, value):
        """The value, in float64, rounded as the next operation."""
        role = f"{self.direction}.{kind}"
        rule, number = self.recipe.elementwise_rule(role), self.count
        self.count += 1
        random = q.RandomBits(
            self.seed, q.stream_id(f"{role}{self.part}.{number}", self.place), self.call
        )
        if rule is None:
            return np.asarray(value, np.float32).astype(np.float64)
        if kind == "sum":
            ones = np.ones((value.shape[-1], 1), np.float32)
            return q.matmul(value.astype(np.float32), ones, rule, random=random).astype(np.float64)
        return rule(np.asarray(value, np.float64), random)


def softmax_by_hand(recipe, place, x, g, call):
    r = Hand(recipe, "forward", place, call)
    e = r("function", np.exp(r("add", x - x.max(-1, keepdims=True))))
    y = r("divide", e / r("sum", e))
    r = Hand(recipe, "backward", place, call)
    total = r("sum", r("multiply", g * y))
    return y, r("multiply", y * r("add", g - total))


def layer_norm_by_hand(recipe, place, x, w, b, g, eps):
    """Output and gradients of x, w and b."""
    n = x.shape[-1]
    r = Hand(recipe, "forward", place)
    d = r("add", x - r("divide", r("sum", x) / n))
    variance = r("divide", r("sum", r("multiply", d * d)) / n)
    root = r("sqrt", np.sqrt(r("add", variance + np.float32(eps))))
    scale = r("divide", 1 / root)
    z = r("multiply", d * scale)
    r = Hand(recipe, "forward", place, part=".affine")
    y = r("add", r("multiply", z * w) + b)
    r = Hand(recipe, "backward", place, part=".affine")
    dz = r("multiply", g * w)
    dw, db = r("sum", r("multiply", g * z).T), r("sum", g.T)
    r = Hand(recipe, "backward", place)
    share = r("multiply", z * r("divide", r("sum", r("multiply", dz * z)) / n))
    centered = r("add", dz - r("divide", r("sum", dz) / n))
    return y, r("multiply", r("add", centered - share) * scale), dw[:, 0], db[:, 0]


@BOTH
def test_a_softmax_by_hand(recipe):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Identity(), nn.Softmax(-1))
    quantize_elementwise(model, recipe)
    for call in range(2):
        x, g = (q.quantize(torch.randn(3, 5), "bf16") for _ in "xg")
        x.requires_grad_()
        y = model(x)
        y.backward(g)
        found = softmax_by_hand(
            recipe, 2, x.detach().numpy().astype(np.float64), g.numpy().astype(np.float64), call
        )
        for got, wanted in zip((y.detach(), x.grad), found, strict=True):
            np.testing.assert_array_equal(got.numpy(), wanted.astype(np.float32))


@BOTH
def test_a_layer_normalization_by_hand(recipe):
    torch.manual_seed(2)
    model = nn.LayerNorm(6)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(q.quantize(torch.randn(6), "bf16"))
    quantize_elementwise(model, recipe)
    x, g = (q.quantize(torch.randn(4, 6), "bf16") for _ in "xg")
    x.requires_grad_()
    y = model(x)
    y.backward(g)
    given = [t.detach().numpy().astype(np.float64) for t in (x, model.weight, model.bias, g)]
    found = layer_norm_by_hand(recipe, 0, *given, model.eps)
    for got, wanted in zip((y, x.grad, model.weight.grad, model.bias.grad), found, strict=True):
        np.testing.assert_array_equal(got.detach().numpy(), wanted.astype(np.float32))


W, B, W2, B2 = (
    torch.randn(
        shape, dtype=torch.double, generator=torch.Generator().manual_seed(3), requires_grad=True
    )
    for shape in ((6,), (6,), (6, 5), (6, 5))
)
MEAN, VARIANCE = (
    torch.linspace(-1, 1, 6, dtype=torch.double),
    torch.linspace(0.5, 2, 6, dtype=torch.double),
)
CALLS = {
    "softmax": (lambda f, x: f.softmax(x, 1),),
    "softmax-dim": (lambda f, x: f.softmax(x[:, 0], dim=0),),
    "softmax-implicit": (lambda f, x: f.softmax(x),),
    "softmax-0d": (lambda f, x: f.softmax(x[0, 0, 0], 0),),
    "log_softmax": (lambda f, x: f.log_softmax(x, -1),),
    "sigmoid": (lambda f, x: f.sigmoid(x),),
    "tanh": (lambda f, x: f.tanh(x),),
    "silu": (lambda f, x: f.silu(x),),
    "glu": (lambda f, x: f.glu(x, 1),),
    "gelu": (lambda f, x: f.gelu(x),),
    "gelu-tanh": (lambda f, x: f.gelu(x, approximate="tanh"),),
    "layer_norm": (lambda f, x, w, b: f.layer_norm(x, (6, 5), w, b), W2, B2),
    "layer_norm-plain": (lambda f, x: f.layer_norm(x, (5,)),),
    "layer_norm-whole": (lambda f, x: f.layer_norm(x[0], (6, 5)),),
    "rms_norm": (lambda f, x, w: f.rms_norm(x, (6, 5), w), W2),
    "group_norm": (lambda f, x, w, b: f.group_norm(x, 3, w, b), W, B),
    "batch_norm": (lambda f, x, w, b: f.batch_norm(x, None, None, w, b, True), W, B),
    "batch_norm-2d": (lambda f, x: f.batch_norm(x[..., 0], None, None, None, None, True),),
    "batch_norm-given": (
        lambda f, x, w, b: f.batch_norm(x, MEAN.to(x), VARIANCE.to(x), w, b, False),
        W,
        B,
    ),
}


@pytest.mark.filterwarnings("ignore:Implicit dimension")
@pytest.mark.parametrize("call", CALLS)
def test_exact_operations_are_pytorchs_function_and_its_derivatives(call):
    function, *parameters = CALLS[call]
    x = torch.randn(
        4, 6, 5, dtype=torch.double, generator=torch.Generator().manual_seed(4), requires_grad=True
    )
    torch.testing.assert_close(function(EXACT, x, *parameters), function(F, x, *parameters))
    assert torch.autograd.gradcheck(lambda *given: function(EXACT, *given), (x, *parameters))
    assert torch.autograd.gradgradcheck(lambda *given: function(EXACT, *given), (x, *parameters))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.filterwarnings("ignore:Implicit dimension")
def test_every_operation_lies_on_its_grid(call):
    """What the last operation of each function and gradient gives."""
    function, *parameters = CALLS[call]
    fmt = "float<6,4>"
    rules = ElementwiseRules(tuple(f"{fmt}/stochastic" for _ in ELEMENTWISE), 0, 0, 0)
    x = torch.randn(4, 6, 5, requires_grad=True)
    parameters = [p.detach().float().requires_grad_() for p in parameters]
    y = function(ElementwiseFunctions(rules), x, *parameters)
    torch.testing.assert_close(y, function(F, x, *parameters), atol=0.7, rtol=0.3)
    gradients = torch.autograd.grad(y, [x, *parameters], q.quantize(torch.randn(y.shape), fmt))
    for found in (y.detach(), *gradients):
        assert torch.equal(q.quantize(found, fmt), found)


def test_running_statistics_are_pytorchs():
    ours, theirs = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    quantize_elementwise(ours, Recipe(elementwise="float<8,23>/nearest_even"))
    for _ in range(3):
        x = torch.randn(4, 3, 2, 2)
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-4)
    for mine, wanted in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine, wanted)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="training needs more than 1 value per channel"):
        ours.train()(torch.zeros(1, 3, 1, 1))


class Net(nn.Module):
    """Functions and modules, two softmaxes in one forward, attention of both kinds."""

    def __init__(self):
        super().__init__()
        self.norm, self.act = nn.LayerNorm(8), nn.GELU()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        x = self.norm(x)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = self.act(self.fc(x))
        x = x + F.scaled_dot_product_attention(x, x, x, is_causal=True)
        return F.softmax(x, -1) + x.tanh()


@BOTH
def test_compiled_and_recomputed_it_has_the_same_bits(same, same_every_way, recipe):
    def quantized(model):
        quantize_gemms(model, "mxfp8", attention=True, seed=0)
        assert quantize_elementwise(model, recipe, seed=0).names == ["", "norm", "act", "attention"]

    torch.manual_seed(0)
    model, x = Net(), torch.randn(2, 5, 8)
    same_every_way(model, quantized, x)
    with disabled(model):
        same(model(x), Net.forward(model, x))


def test_products_and_elementwise_operations_go_together_in_either_order(same):
    """And leave one another, and the model, as they were."""
    x, models = torch.randn(2, 5, 8), []
    torch.manual_seed(0)
    plain = Net()
    for order in ("gs", "sg"):
        model, handles = copy.deepcopy(plain), {}
        for which in order:
            handles[which] = (
                quantize_gemms(model, "mxfp8", attention=True)
                if which == "g"
                else quantize_elementwise(model, NEAREST)
            )
        models.append((model, handles))
    both = models[0][0](x)
    same(both, models[1][0](x))
    same(both, copy.deepcopy(models[0][0])(x))
    for which, (model, handles) in zip("gs", models, strict=True):
        handles[which].remove()
        alone = copy.deepcopy(plain)
        if which == "s":
            quantize_gemms(alone, "mxfp8", attention=True)
        else:
            quantize_elementwise(alone, NEAREST)
        found = model(x)
        same(found, alone(x))
        assert not torch.equal(found, both)
        for handle in handles.values():
            handle.remove()
        same(model(x), plain(x))


def test_rounded_products_leave_the_softmax_to_the_elementwise(same):
    torch.manual_seed(0)
    alone, both = (nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2))
    both.load_state_dict(alone.state_dict())
    x = torch.randn(2, 5, 8)
    exact = dict.fromkeys(("input", "weight"), "float<8,23>/nearest_even")
    quantize_gemms(both, Recipe(operands=exact), attention=True)
    for model in (alone, both):
        quantize_elementwise(model, NEAREST)
    same(both(x, x, x)[0], alone(x, x, x)[0])


def test_each_call_in_a_forward_has_random_bits_of_its_own():
    class Twice(nn.Module):
        def forward(self, x):
            return F.softmax(x, -1) - F.softmax(x, -1)

    model = Twice()
    quantize_elementwise(model, Recipe(elementwise="e4m3fn/stochastic"))
    assert model(torch.randn(4, 8)).any()


def test_a_hidden_row_of_attention_is_zero():
    model = nn.MultiheadAttention(4, 1, batch_first=True)
    x, mask = torch.randn(1, 2, 4), torch.tensor([[True, True], [False, False]])
    quantize_elementwise(model, NEAREST)
    _, weights = model(x, x, x, attn_mask=mask)
    assert weights[0, 0].tolist() == [0.0, 0.0]
    assert math.isclose(weights[0, 1].sum().item(), 1, rel_tol=1e-2)


def test_a_call_counts_for_the_innermost_chosen_module(same):
    model = nn.Sequential(nn.Softmax(-1))
    steps = {"0.elementwise": Recipe(elementwise="e4m3fn/nearest_even")}
    quantize_elementwise(
        model, Recipe(elementwise="e5m2/nearest_even", overrides=steps), modules=nn.Module
    )
    x = torch.randn(3, 7)
    inner = nn.Softmax(-1)
    quantize_elementwise(inner, Recipe(elementwise="e4m3fn/nearest_even"))
    same(model(x), inner(x))


def test_autocast_normalizes_in_float32():
    model = nn.LayerNorm(8)
    quantize_elementwise(model, Recipe(elementwise="tf32/nearest_even"))
    with torch.autocast("cpu", torch.bfloat16):
        y = model(torch.randn(2, 8, dtype=torch.bfloat16))
    assert y.dtype == torch.float32


def test_the_memory_of_weights_can_still_be_freed():
    model = nn.LayerNorm(8)
    quantize_elementwise(model, NEAREST)
    model(torch.randn(2, 8)).sum().backward()
    model.weight.untyped_storage().resize_(0)


def test_a_transformer_trains():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 16),
        nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True),
        nn.Linear(16, 1),
    )
    handle = quantize_elementwise(model, Recipe(elementwise="bf16/stochastic"))
    computing = ("1", "1.self_attn", "1.norm1", "1.norm2")
    assert {*computing} <= set(handle.names)
    optimizer, x = torch.optim.SGD(model.parameters(), 0.05), torch.randn(32, 3, 4)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x)[..., 0], x.sum(-1))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
    state = handle.state_dict()
    assert {name for name, record in state.items() if record["training"] == 30} == {*computing}
    with torch.no_grad():
        model.eval()(x)
    looked = [handle.state_dict()[name] for name in computing]
    assert {record["training"] for record in looked} == {30}
    assert {record["evaluation without gradient"] for record in looked} == {1}


def test_recipes():
    recipe = Recipe(
        elementwise={"function": "e5m2/nearest_even", "forward.sum": "fp16/nearest_even; chunk=4"}
    )
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert [line.split() for line in str(recipe).splitlines()[2:]] == [
        ["forward.function", "e5m2", "nearest_even"],
        ["backward.function", "e5m2", "nearest_even"],
        ["forward.sum", "(chunk=4)", "fp16", "nearest_even"],
        ["forward.sum", "of", "chunks", "fp16", "nearest_even"],
    ]
    study = find_breaking_role(lambda r: 2.0 if r.elementwise_rule("forward.sum") else 1.0, recipe)
    assert study.breaking == "forward.sum"
    assert set(study.without) == {"forward.function", "backward.function", "forward.sum"}


class Own(nn.Module):
    def forward(self, x):
        return x


def test_errors():
    for recipe, words in (
        ({"elementwise": {"exponential": "bf16"}}, "the name of an elementwise operation must be"),
        ({"elementwise": "bfp8"}, "must be of an element format"),
        ({"elementwise": "takum16"}, "up to 51 significant bits"),
    ):
        with pytest.raises(ValueError, match=words):
            Recipe(**recipe)
    with pytest.raises(
        ValueError,
        match=r"nothing to round: quantize_elementwise applies the section .elementwise.",
    ):
        quantize_elementwise(nn.GELU(), "mxfp8")
    with pytest.raises(ValueError, match="nothing to round"):
        quantize_elementwise(nn.Linear(1, 1), NEAREST)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
        quantize_elementwise([], NEAREST)
    model = nn.GELU()
    quantize_elementwise(model, NEAREST)
    with pytest.raises(ValueError, match="the elementwise operations of '' are rounded already"):
        quantize_elementwise(model, NEAREST)
    model = nn.GELU().bfloat16()
    quantize_elementwise(model, Recipe(elementwise="tf32/nearest_even"))
    with pytest.raises(TypeError, match="bfloat16"):
        model(torch.ones(1, dtype=torch.bfloat16))
    with pytest.raises(TypeError, match="are registered"):
        register_elementwise("RMSNorm", len)
    register_elementwise(Own, abs)
    with pytest.raises(ValueError, match="are known already"):
        register_elementwise(Own, len)
