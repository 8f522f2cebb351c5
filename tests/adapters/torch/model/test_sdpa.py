"""`F.scaled_dot_product_attention` in the forward of modules: its definition, with each operand
rounded.
"""

import copy
import math
import pickle

import pytest
import torch
from qemu_swalp_torch import UncoveredError, disabled, quantize_gemms
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from qemu_swalp import RandomBits, stream_id
from qemu_swalp.training import Recipe

NEARLY_FLOAT = Recipe(operands={"input": "float<8,22>/nearest_even"})
STOCHASTIC = Recipe(
    operands={
        "input": "bfp<4,axis=-1,size=4>/stochastic",
        "error": "bfp<5,axis=-1,size=3>/stochastic",
        "wgrad.input": "e4m3fn/stochastic",
        "wgrad.error": "bfp<6,axis=-1,size=2>/stochastic",
    }
)
ATTENTION = {"attention": True, "seed": 4}


class Attention(nn.Module):
    """The function, as often as it is told."""

    def __init__(self, times=1, **options):
        super().__init__()
        self.times, self.options = times, options

    def forward(self, q, k, v):
        for _ in range(self.times):
            q = F.scaled_dot_product_attention(q, k, v, **self.options)
        return q


class Block(nn.Module):
    """Self-attention of a small transformer."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.qkv, self.out, self.dropout = nn.Linear(8, 24), nn.Linear(8, 8), dropout

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(
            q, k, v, None, self.dropout if self.training else 0.0, is_causal=True
        )
        return x + self.out(y.transpose(1, 2).flatten(2))


def blocks(mode=None, dropout=0.0):
    class Model(nn.Sequential):
        def forward(self, x):
            for block in self:
                x = (
                    block(x)
                    if mode is None
                    else checkpoint(block, x, use_reentrant=mode == "reentrant")
                )
            return x

    torch.manual_seed(0)
    return Model(Block(dropout), Block(dropout))


def gradients(model, y):
    model.zero_grad()
    y.square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def operands(heads=4, groups=4, length=5, keys=6):
    q, k, v = (
        torch.randn(3, heads, length, 8),
        torch.randn(3, groups, keys, 8),
        torch.randn(3, groups, keys, 7),
    )
    return [x.requires_grad_() for x in (q, k, v)]


HIDDEN = torch.ones(5, 6).bool()
HIDDEN[2] = False


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"scale": 0.3},
        {"dropout_p": 0.4},
        {"attn_mask": torch.ones(5, 6).tril(1).bool()},
        {"attn_mask": torch.linspace(-1, 1, 30).reshape(5, 6)},
        {"attn_mask": torch.randn(4, 5, 6) > 0},
        {"attn_mask": torch.randn(3, 1, 1, 6)},
        {"attn_mask": HIDDEN},
    ],
    ids=[
        "plain",
        "causal",
        "scale",
        "dropout",
        "boolean",
        "floating",
        "for each head",
        "for each row of a batch",
        "a row sees nothing",
    ],
)
@pytest.mark.parametrize("groups", [4, 2, 1])
def test_it_computes_what_pytorchs_does(options, groups):
    module = Attention(**options, enable_gqa=groups < 4)
    results = []
    for quantized in (False, True):
        if quantized:
            assert quantize_gemms(module, NEARLY_FLOAT, **ATTENTION).names == [""]
        torch.manual_seed(5)
        inputs = operands(groups=groups)
        y = module(*inputs)
        y.square().sum().backward()
        results.append([y, *(x.grad for x in inputs)])
    assert not torch.equal(results[0][0], results[1][0])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def rounder(call, part):
    def rounded(operand, x, as_operand=None):
        quantizer = STOCHASTIC.quantizer(as_operand or operand)
        return quantizer(x.detach().contiguous(), RandomBits(4, stream_id(operand + part, 1), call))

    return rounded


def test_it_is_rounded_operand_by_operand(same):
    """Heads that share keys and values are rounded apart, the keys and values once; gradients by
    the softmax's.
    """
    model = nn.ModuleList([Attention(enable_gqa=True)])
    quantize_gemms(model, STOCHASTIC, **ATTENTION)
    for call in range(2):
        q, k, v = inputs = operands(heads=4, groups=2)
        y = model[0](*inputs)
        e = torch.randn(y.shape)
        y.backward(e)
        s, w = rounder(call, ".scores"), rounder(call, ".values")
        scaled, error = (q.detach() * math.sqrt(1 / 8)).unflatten(1, (2, 2)), e.unflatten(1, (2, 2))
        keys, values = k.detach()[:, :, None], v.detach()[:, :, None]
        z = (
            s("forward.input", scaled) @ s("forward.weight", keys, "forward.input").mT
        ).requires_grad_()
        p = z.softmax(-1)
        same(
            y,
            (w("forward.input", p) @ w("forward.weight", values.mT, "forward.input").mT).flatten(
                1, 2
            ),
        )
        p.backward(w("dgrad.error", error) @ w("dgrad.weight", values, "wgrad.input").mT)
        same(v.grad, (w("wgrad.input", p.mT) @ w("wgrad.error", error.mT).mT).sum(2))
        dq = s("dgrad.error", z.grad) @ s("dgrad.weight", keys.mT, "wgrad.input").mT
        same(q.grad, dq.flatten(1, 2) * math.sqrt(1 / 8))
        same(k.grad, (s("wgrad.input", scaled.mT) @ s("wgrad.error", z.grad.mT).mT).mT.sum(2))


def test_calls_within_one_forward_have_random_bits_of_their_own(same):
    module = Attention(2)
    counts = quantize_gemms(module, STOCHASTIC, **ATTENTION)
    once = Attention()
    handle = quantize_gemms(once, STOCHASTIC, **ATTENTION)
    fresh = handle.state_dict()
    q, k, v = torch.randn(3, 1, 4, 5, 8)
    first = once(q, k, v)
    handle.load_state_dict(fresh)
    assert not torch.equal(module(q, k, v), once(first, k, v))
    assert counts.state_dict()[""]["training"] == 1


def test_the_model_comes_back(same):
    model, x = blocks(), torch.randn(2, 5, 8)
    plain = model(x)
    with quantize_gemms(model, STOCHASTIC, **ATTENTION) as handle:
        assert handle.names == ["0", "0.qkv", "0.out", "1", "1.qkv", "1.out"]
        assert not torch.equal(model(x), plain)
        with disabled(model):
            same(model(x), plain)
        for copied in (copy.deepcopy(model[0]), pickle.loads(pickle.dumps(model[0]))):
            same(copied(x), copy.deepcopy(model[0])(x))
    same(model(x), plain)
    assert not any("forward" in m.__dict__ for m in model.modules())
    assert quantize_gemms(model, STOCHASTIC).names == ["0.qkv", "0.out", "1.qkv", "1.out"]


def test_overrides_and_exclusions_go_by_the_caller():
    one = Recipe(operands={"input": "bf16/stochastic"}, overrides={"0.operands": None})
    assert quantize_gemms(blocks(), one, **ATTENTION, exclude=nn.Linear).names == ["1"]


@pytest.mark.parametrize("mode", ["reentrant", "not reentrant"])
def test_a_recomputation_repeats_the_bits(same, mode):
    results = []
    for model in (blocks(dropout=0.2), blocks(mode, dropout=0.2)):
        quantize_gemms(model, STOCHASTIC, **ATTENTION)
        torch.manual_seed(3)
        for _ in range(2):
            found = gradients(model, model(torch.randn(2, 5, 8, requires_grad=True)))
        results.append(found)
    same(*results)


def test_compiles_as_one_graph_with_the_eager_bits(same):
    torch._dynamo.reset()
    models = blocks(), blocks()
    for model in models:
        quantize_gemms(model, STOCHASTIC, **ATTENTION)
    compiled = torch.compile(models[0], fullgraph=True, backend="aot_eager")
    for _ in range(2):
        x = torch.randn(2, 5, 8)
        y, z = compiled(x), models[1](x)
        same(y, z)
        same(gradients(models[0], y), gradients(models[1], z))
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast(dtype):
    module = Attention()
    quantize_gemms(module, Recipe(operands={"input": "e4m3fn/stochastic"}), **ATTENTION)
    inputs = [x.detach() for x in operands()]
    assert module(*(x.to(dtype) for x in inputs)).dtype == dtype
    with torch.autocast("cpu", dtype):
        assert module(*inputs).dtype == dtype


def test_a_row_that_is_hidden_whole_gives_zeros_in_a_module_too():
    module = nn.MultiheadAttention(8, 2, batch_first=True, bias=False)
    x, hidden = torch.randn(2, 3, 8), torch.tensor([[False] * 3, [True] * 3])
    quantize_gemms(module, NEARLY_FLOAT, **ATTENTION)
    y, _ = module(x, x, x, key_padding_mask=hidden, need_weights=False)
    assert y[0].all()
    assert not y[1].any()


def attend(q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


class Indirect(nn.Module):
    def forward(self, q, k, v):
        return attend(q, k, v)


def test_calls_through_functions_are_seen(same):
    inputs = [x.detach() for x in operands()]
    model, twin = nn.Sequential(Indirect()), nn.Sequential(Attention())
    handle = quantize_gemms(model, STOCHASTIC, **ATTENTION)
    quantize_gemms(twin, STOCHASTIC, **ATTENTION)
    same(model[0](*inputs), twin[0](*inputs))
    assert handle.names == ["0"]


def test_errors():
    q, k, v = operands()
    module = Attention(is_causal=True, attn_mask=HIDDEN)
    quantize_gemms(module, STOCHASTIC, **ATTENTION)
    with pytest.raises(RuntimeError, match="attn_mask must be None where is_causal=True"):
        module(q, k, v)
    module = Attention(is_causal=True)
    quantize_gemms(module, STOCHASTIC, **ATTENTION)
    nested = torch.nested.nested_tensor([torch.randn(2, 3, 8)], layout=torch.jagged)
    with pytest.raises(UncoveredError, match=r"aten\.bmm"):
        module(nested, nested, nested)


def llama(**options):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            **options,
        )
    )


IDS = torch.arange(2 * 9).reshape(2, 9) % 32
PADDED = torch.ones(2, 9, dtype=torch.int64)
PADDED[1, :4] = 0


def test_a_model_of_transformers():
    """Its queries share keys in groups, and its mask hides whole rows."""
    model = llama()
    plain = [model(IDS).logits, model(IDS, attention_mask=PADDED).logits[1, 4:]]
    with quantize_gemms(model, NEARLY_FLOAT, **ATTENTION) as handle:
        assert sum(name.endswith(".self_attn") for name in handle.names) == 2
        near = [model(IDS).logits, model(IDS, attention_mask=PADDED).logits[1, 4:]]
    for ours, theirs in zip(near, plain, strict=True):
        assert not torch.equal(ours, theirs)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_model_of_transformers_checkpointed_and_compiled(same):
    results = []
    for way in ("plain", "checkpointed", "compiled"):
        model = llama().train()
        quantize_gemms(model, "nvfp4", **ATTENTION)
        if way == "checkpointed":
            model.gradient_checkpointing_enable()
        run = (
            torch.compile(model, fullgraph=True, backend="aot_eager")
            if way == "compiled"
            else model
        )
        for _ in range(2):
            model.zero_grad()
            run(IDS, labels=IDS, use_cache=False).loss.backward()
        results.append({name: p.grad for name, p in model.named_parameters()})
    same(results[0], results[1])
    same(results[0], results[2])
    torch._dynamo.reset()
