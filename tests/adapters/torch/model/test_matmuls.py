"""Operands of matrix products: which numbers share a block, the core's bits, and the module as it
was otherwise.
"""

import copy
import pickle
import shutil

import numpy as np
import pytest
import torch
from qemu_swalp_torch import Matmul, disabled, quantize_activations, quantize_gemms, register_gemms
from qemu_swalp_torch.ops.matmul import linear
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from qemu_swalp import RandomBits, quantize, stream_id
from qemu_swalp.training import OPERANDS, Quantizer, Recipe

FORMATS = [
    "bfp<4,axis=-1,size=4>",
    "bfp<5,axis=-1,size=3>",
    "e4m3fn",
    "bfp<6,axis=-1,size=2>",
    "bfp<3,axis=(-2,-1),size=2>",
    "bfp<4,axis=-2>",
]
NEAREST = Recipe(operands=dict(zip(OPERANDS, [f"{f}/nearest_even" for f in FORMATS], strict=True)))
STOCHASTIC = Recipe(operands=dict(zip(OPERANDS, [f"{f}/stochastic" for f in FORMATS], strict=True)))
RUNS_OF_3 = "bfp<4,axis=-1,size=3>/nearest_even"
RUNS = Recipe(operands=dict.fromkeys(("input", "weight", "error"), RUNS_OF_3))


def rounder(recipe, seed, place, call, part=""):
    """The core's quantize for an operand, with the bits of a call."""

    def rounded(operand, x, as_operand=None):
        quantizer = recipe.quantizer(as_operand or operand)
        return quantizer(x.contiguous(), RandomBits(seed, stream_id(operand + part, place), call))

    return rounded


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


MASKS = {
    "none": {},
    "weights": {"need_weights": True},
    "per head": {"need_weights": True, "average_attn_weights": False},
    "boolean": {"attn_mask": torch.ones(5, 5).triu(1).bool()},
    "floating": {"attn_mask": torch.linspace(-1, 1, 25).reshape(5, 5)},
    "for each head": {"attn_mask": torch.linspace(-1, 1, 6 * 25).reshape(6, 5, 5)},
    "padding": {
        "key_padding_mask": torch.tensor([[False] * 5, [False] * 4 + [True], [True] + [False] * 4])
    },
    "both": {
        "attn_mask": torch.ones(5, 5).triu(1).bool(),
        "is_causal": True,
        "key_padding_mask": torch.tensor([[False] * 5, [False] * 4 + [True], [False] * 5]),
    },
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(
    "options", [{"batch_first": True}, {"bias": False}, {"kdim": 4, "vdim": 3}], ids=str
)
def test_attention_computes_what_pytorchs_does(mask, options):
    module = nn.MultiheadAttention(8, 2, **options)
    plain = copy.deepcopy(module)
    quantize_gemms(module, Recipe(operands={"input": "float<8,22>/nearest_even"}), attention=True)
    shapes = [
        (3, 5, n) if options.get("batch_first") else (5, 3, n)
        for n in (8, options.get("kdim", 8), options.get("vdim", 8))
    ]
    inputs = [torch.randn(shape) for shape in shapes]
    for ours, theirs in zip(
        module(*inputs, **MASKS[mask]), plain(*inputs, **MASKS[mask]), strict=True
    ):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    if options.get("batch_first") and mask == "none":
        one = [x[0] for x in inputs]
        torch.testing.assert_close(module(*one)[0], plain(*one)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", [False, True])
def test_attention_by_hand(same, attention):
    module = nn.MultiheadAttention(8, 2, batch_first=True)
    quantize_gemms(module, STOCHASTIC, attention=attention, seed=2)
    x = torch.randn(3, 5, 8)
    output, _ = module(x, x, x, need_weights=False)

    def projection(part, x, weight, bias):
        q = rounder(STOCHASTIC, 2, 0, 0, part)
        y = F.linear(
            q("forward.input", x.reshape(15, 8)), q("forward.weight", weight.detach()), bias
        )
        return y.reshape(3, 5, 8)

    def activations(part, a, b):
        q = rounder(STOCHASTIC, 2, 0, 0, part)
        return (
            q("forward.input", a) @ q("forward.weight", b.mT, "forward.input").mT
            if attention
            else a @ b
        )

    with torch.no_grad():
        q, k, v = (
            projection(f".{part}", x, w, b).reshape(3, 5, 2, 4).transpose(1, 2)
            for part, w, b in zip(
                "qkv", module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3), strict=True
            )
        )
        p = activations(".scores", q * 0.5, k.mT).softmax(-1)
        joined = activations(".values", p, v).transpose(1, 2).reshape(3, 5, 8)
        same(output, projection(".out", joined, module.out_proj.weight, module.out_proj.bias))


def net():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 6),
        nn.Tanh(),
        nn.Linear(6, 3),
    )


def gradients(model, y):
    model.zero_grad()
    y.square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


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


def test_a_transformer_layer_is_rounded_in_inference_too():
    """nn.TransformerEncoderLayer takes a shortcut around its modules there."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(2, 3, 8)
    handle = quantize_gemms(layer, NEAREST)
    assert handle.names == ["self_attn", "linear1", "linear2"]
    expected = layer(x)
    with torch.no_grad():
        assert torch.equal(layer(x), expected)
    nested = torch.nested.nested_tensor([torch.randn(2, 8)])
    with pytest.raises(
        TypeError, match=r"takes no nested tensors; make nn\.TransformerEncoder with"
    ):
        layer.self_attn(nested, nested, nested)


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
        )
        handle = quantize_gemms(model, STOCHASTIC)
        if checkpointing:
            model.mode = {"use_reentrant": mode == "reentrant"}
        if checkpointing and mode == "contexts":
            model.mode["context_fn"] = handle.checkpoint_contexts
        for call in range(3):
            x = torch.randn(5, 4, generator=torch.Generator().manual_seed(call), requires_grad=True)
            found = gradients(model, model(x))
        results.append(found)
        counts = handle.state_dict()
        assert counts == dict.fromkeys(counts, 3)
    same(*results)


def test_handles_share_a_clock_and_leave_it_one_by_one():
    model = net()
    a = quantize_activations(model, Recipe(activation="fixed<8,3>/stochastic"), modules=nn.ReLU)
    b = quantize_gemms(model, STOCHASTIC)
    assert len(model._forward_pre_hooks) == 1
    assert len(a.sites[0].clock.sites) == 4
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


@pytest.fixture
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def attention_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), nn.Linear(8, 3)
    )


@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize("kind", [net, attention_net])
@pytest.mark.parametrize("recipe", [NEAREST, STOCHASTIC], ids=["nearest", "stochastic"])
def test_compiles_as_one_graph_with_the_eager_bits(same, kind, recipe):
    models = kind(), kind()
    for model in models:
        quantize_gemms(model, recipe, attention=True, seed=2**63 + 5)
    compiled = torch.compile(models[0], fullgraph=True, backend="aot_eager")
    for _ in range(2):
        x = torch.randn(3, 2, 4, 4) if kind is net else torch.randn(2, 3, 8)
        y, z = compiled(x), models[1](x)
        same(y, z)
        same(gradients(models[0], y), gradients(models[1], z))


@pytest.mark.usefixtures("_fresh")
@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
def test_inductors_operands_have_the_eager_bits(same):
    model = nn.Linear(6, 4, bias=False)
    quantize_gemms(model, STOCHASTIC)
    other = copy.deepcopy(model)
    x = torch.randn(5, 6)
    same(gradients(model, torch.compile(model, fullgraph=True)(x)), gradients(other, other(x)))


def test_after_compilation_it_warns():
    with pytest.warns(UserWarning, match="call quantize_gemms first, then torch.compile"):
        quantize_gemms(torch.compile(net()), NEAREST)


class OwnForward(nn.Linear):
    def forward(self, x):
        return super().forward(x) + 1


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
        (
            lambda: quantize_gemms(net(), NEAREST, modules=nn.Tanh),
            ValueError,
            r"'4' \(Tanh\) has a forward of its own",
        ),
        (
            lambda: quantize_gemms(OwnForward(2, 2), NEAREST),
            ValueError,
            r"\(OwnForward\) has a forward of its own, whose",
        ),
        (
            lambda: quantize_gemms(nn.MultiheadAttention(4, 2, add_bias_kv=True), NEAREST),
            ValueError,
            "add_bias_kv",
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


def test_products_of_ones_own_modules_are_registered(same):
    model = nn.Sequential(Gated(), nn.Linear(3, 2))
    assert quantize_gemms(copy.deepcopy(model), STOCHASTIC).names == ["1"]
    with pytest.raises(
        ValueError,
        match=r"'0' \(Gated\) has a forward of its own, .*tell of them by register_gemms",
    ):
        quantize_gemms(model, STOCHASTIC, modules="?")
    register_gemms(Gated, gated)
    register_gemms(Gated, gated)
    assert quantize_gemms(model, STOCHASTIC, seed=6).names == ["0", "1"]
    x = torch.randn(5, 4)
    up, gate = (rounder(STOCHASTIC, 6, 1, 0, f".{part}") for part in ("up", "gate"))
    weights = model[0].up.detach(), model[0].gate.detach()
    parts = [
        F.linear(q("forward.input", x), q("forward.weight", w))
        for q, w in zip((up, gate), weights, strict=True)
    ]
    same(pickle.loads(pickle.dumps(model))[0](x), parts[0] * parts[1].sigmoid())
    with pytest.raises(ValueError, match=r"the products of Gated\.forward are known already"):
        register_gemms(Gated, lambda module, rules, x: x)
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
