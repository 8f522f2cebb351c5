"""Products of activations within attention: as PyTorch computes it, and by hand."""

import copy

import pytest
import torch
from qemu_swalp_torch import quantize_gemms
from torch import nn
from torch.nn import functional as F

from qemu_swalp.training import Recipe
from tests.helpers.products import NEAREST, STOCHASTIC, rounder

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
    "options",
    [
        {"batch_first": True},
        {"bias": False},
        {"kdim": 4, "vdim": 3},
        {"add_bias_kv": True, "add_zero_attn": True},
    ],
    ids=str,
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
