"""No product of a model stays in float unseen: watched where PyTorch dispatches its operators, not
by the report.
"""

import pytest
import torch
from qemu_swalp_torch import UncoveredError, quantize_elementwise, quantize_gemms
from torch import nn
from torch.nn import functional as F

from qemu_swalp.training import Recipe
from tests.helpers.dispatched import ALL, Watch


class Own(nn.Module):
    """Products of every kind, in code that nobody registered."""

    def __init__(self):
        super().__init__()
        self.fc, self.w = nn.Linear(8, 8), nn.Parameter(torch.randn(8, 8) / 6)
        self.e, self.bilinear = nn.Parameter(torch.randn(3, 8, 8) / 6), nn.Bilinear(8, 8, 8)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))

    def forward(self, x):
        w, e = self.w, self.e
        y = F.linear(self.fc(x), w)
        y = y @ w.t() + torch.einsum("bi,eij->bej", y, e).sum(1) + torch.tensordot(y, w, 1)
        y = self.normed(y) + torch.addmm(w[0], y, w) + torch.mm(y, w, out=None)
        y = self.bilinear(y, y) + torch.bmm(y[None], w[None])[0] + torch.inner(y, w)
        y = y * torch.mv(w, y[0]) + y.matmul(e).sum(0) + torch.baddbmm(y[None], y[None], w[None])[0]
        y = y + F.conv1d(y[:, None], w[:1, None, :3], padding="same")[:, 0] * torch.dot(w[0], y[0])
        y = torch.ops.aten.mm(y, w) + torch.ops.aten.linear.default(y, w)
        y = torch.linalg.multi_dot([y, w, w]) + torch.addbmm(y, y[None], w[None], beta=0.5)
        y = y + w.new_zeros(8).addmv(w, y[0], alpha=2)
        q = F.scaled_dot_product_attention(y[None], y[None], y[None], is_causal=True)[0]
        y = y + torch.tensordot(y[:, :1], w, 1)  # lengths of 1 are broadcast
        return torch.einsum("ij,kj,lj->ikl", q, y, y)


class Cells(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.LSTMCell(8, 8), nn.GRUCell(8, 8)
        self.c = nn.RNNCell(8, 8, nonlinearity="relu")

    def forward(self, x):
        h, _ = self.a(x, (x, x))
        return self.c(self.b(h, x))


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, 8, 16))

    def forward(self, x):
        return F.grouped_mm(x, self.w, offs=torch.tensor([2, 2, 5], dtype=torch.int32))


OWN = {
    "own": lambda: (Own(), [torch.randn(3, 8)]),
    "cells": lambda: (Cells(), [torch.randn(3, 8)]),
    "grouped": lambda: (Grouped(), [torch.randn(5, 8)]),
    "lstm": lambda: (
        nn.LSTM(8, 8, 2, bidirectional=True, dropout=0.1, proj_size=4),
        [torch.randn(5, 3, 8)],
    ),
    "gru": lambda: (nn.GRU(8, 8, 2, bidirectional=True, batch_first=True), [torch.randn(3, 5, 8)]),
    "rnn beside linear": lambda: (
        nn.ModuleDict({"rnn": nn.RNN(8, 8), "fc": nn.Linear(8, 2)}),
        [torch.randn(5, 3, 8)],
    ),
    "transformer": lambda: (
        nn.Transformer(16, 2, 1, 1, 32, batch_first=True),
        [torch.randn(2, 5, 16), torch.randn(2, 4, 16)],
    ),
    "attention": lambda: (
        nn.MultiheadAttention(8, 2, add_bias_kv=True, add_zero_attn=True),
        [torch.randn(4, 2, 8)] * 3,
    ),
}

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
TEXT = {"vocab_size": 64, **SMALL}
GROUPED = {**TEXT, "num_key_value_heads": 2}
IDS = torch.arange(18).reshape(2, 9) % 60 + 1
IMAGE = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
LANGUAGE = {"input_ids": IDS, "labels": IDS}
VISION = {"pixel_values": IMAGE, "labels": torch.tensor([0, 1])}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
ARCHITECTURES = {
    "Llama": ("ForCausalLM", {**GROUPED, **TOKENS}, LANGUAGE),
    "Gemma2": ("ForCausalLM", {**GROUPED, "head_dim": 8, **TOKENS}, LANGUAGE),
    "Mixtral": ("ForCausalLM", {**GROUPED, "num_local_experts": 4, **TOKENS}, LANGUAGE),
    "GPT2": (
        "LMHeadModel",
        {"vocab_size": 64, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2, **TOKENS},
        LANGUAGE,
    ),
    "Bloom": ("ForCausalLM", {**TEXT, "n_layer": 2, "n_head": 4, **TOKENS}, LANGUAGE),
    "Bert": ("ForMaskedLM", TEXT, LANGUAGE),
    "DebertaV2": (
        "ForMaskedLM",
        {**TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
        LANGUAGE,
    ),
    "T5": (
        "ForConditionalGeneration",
        {
            "vocab_size": 64,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": 0,
        },
        LANGUAGE,
    ),
    "Bart": (
        "ForConditionalGeneration",
        {
            "vocab_size": 64,
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "max_position_embeddings": 32,
        },
        LANGUAGE,
    ),
    "Mamba": (
        "ForCausalLM",
        {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
        LANGUAGE,
    ),
    "ViT": ("ForImageClassification", {**SMALL, "image_size": 32, "patch_size": 8}, VISION),
    "Swin": (
        "ForImageClassification",
        {
            "image_size": 32,
            "patch_size": 4,
            "embed_dim": 8,
            "depths": [2],
            "num_heads": [2],
            "window_size": 4,
        },
        VISION,
    ),
    "ConvNext": (
        "ForImageClassification",
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
        VISION,
    ),
    "ResNet": (
        "ForImageClassification",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
        VISION,
    ),
    "Wav2Vec2": (
        "ForCTC",
        {
            **TEXT,
            "conv_dim": (8, 8),
            "conv_stride": (5, 2),
            "conv_kernel": (10, 3),
            "num_conv_pos_embeddings": 4,
            "num_conv_pos_embedding_groups": 2,
            "num_feat_extract_layers": 2,
        },
        {"input_values": torch.linspace(-1, 1, 800).reshape(2, 400)},
    ),
}


def built(name):
    torch.manual_seed(0)
    if name in OWN:
        return OWN[name]()
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    head, settings, inputs = ARCHITECTURES[name]
    config = getattr(transformers, f"{name}Config")(**settings)
    return getattr(transformers, f"{name}{head}")(config), inputs


def loss_of(model, inputs):
    if isinstance(model, nn.ModuleDict):
        return model["fc"](model["rnn"](*inputs)[0]).square().mean()
    found = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    if getattr(found, "loss", None) is not None:
        return found.loss
    found = getattr(found, "logits", found)
    return (found[0] if isinstance(found, tuple) else found).square().mean()


@pytest.mark.parametrize("name", [*OWN, *ARCHITECTURES])
def test_the_operands_of_every_product_lie_on_the_grid(name):
    model, inputs = built(name)
    quantize_gemms(model.train(), ALL, attention=True)
    with Watch() as watch:
        loss_of(model, inputs).backward()
    assert watch.seen > 3
    assert not watch.bad


class Calls(nn.Module):
    """One function of a layer's output."""

    def __init__(self, function):
        super().__init__()
        self.fc, self.function = nn.Linear(8, 8), function

    def forward(self, x):
        return self.function(self.fc(x))


EYE = torch.eye(8)
BAGS = torch.arange(8).reshape(2, 4)
START = torch.zeros((), dtype=torch.int64)
FP8 = torch.ones(16, 16).to(torch.float8_e4m3fn)
REFUSED = {
    "sparse": (lambda x: torch.sparse.mm(EYE.to_sparse(), x), "_sparse_addmm"),
    "sparse @": (lambda x: EYE.to_sparse_csr() @ x, "mm"),
    "sparse addmm": (lambda x: torch.addmm(x, EYE.to_sparse(), x), "addmm"),
    "sampled": (
        lambda x: torch.sparse.sampled_addmm(EYE.to_sparse_csr(), x, x.t()).to_dense(),
        "sparse_sampled_addmm",
    ),
    "complex": (lambda x: (x.to(torch.complex64) @ x.to(torch.complex64)).abs(), "mm"),
    "distances": (lambda x: torch.cdist(x, x), "_cdist_forward"),
    "Fourier": (lambda x: torch.fft.fft(x).abs(), "_fft_r2c"),
    "equations": (lambda x: torch.linalg.solve(x + 8 * EYE, x), "_linalg_solve_ex"),
    "factors": (lambda x: torch.linalg.qr(x)[0], "linalg_qr"),
    "power": (lambda x: torch.linalg.matrix_power(x, 3), "mm"),
    "activation": (lambda x: torch.ops.aten._addmm_activation(x[0], x, x), "_addmm_activation"),
    "distances of pairs": (lambda x: F.pdist(x), "_pdist_forward"),
    "weighted bags": (
        lambda x: F.embedding_bag(BAGS, EYE, mode="sum", per_sample_weights=x[0].reshape(2, 4)),
        "_embedding_bag",
    ),
    "scaled": (
        lambda x: torch._scaled_mm(
            FP8, FP8.t(), scale_a=torch.ones(()), scale_b=torch.ones(()), out_dtype=x.dtype
        ),
        "_scaled_mm",
    ),
    "covariance": (lambda x: torch.cov(x), "mm"),
    "norm of matrices": (lambda x: torch.linalg.norm(x, 2), "_linalg_svd"),
    "low rank": (lambda x: torch.pca_lowrank(x)[1], "linalg_qr"),
    "padded nested": (
        lambda x: torch.nested.to_padded_tensor(
            torch.nested.nested_tensor([x[:2], x[:3]]) @ torch.nested.nested_tensor([EYE, EYE]), 0.0
        ),
        "matmul",
    ),
    "nested": (
        lambda x: nn.Linear(8, 2)(
            torch.nested.nested_tensor([x[:2], x[:3]], layout=torch.jagged)
        ).values(),
        "linear",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_rounded_is_refused_by_name(name):
    function, operator = REFUSED[name]
    torch.manual_seed(0)
    x, plain = torch.randn(8, 8), Calls(function)
    model = Calls(function)
    model.fc = plain.fc
    quantize_gemms(model, ALL)
    with pytest.raises(UncoveredError, match=rf"model itself.*: aten\.{operator}"):
        model(x)
    ignoring = Calls(function)
    quantize_gemms(ignoring, ALL, uncovered="ignore")
    assert ignoring(x).shape == plain(x).shape


def test_loops_of_higher_order_are_refused_by_name():
    from torch._higher_order_ops import while_loop

    def looped(x):
        with torch.no_grad():
            return while_loop(lambda i, y: i < 2, lambda i, y: (i + 1, y @ EYE), (START, x))[1]

    model = Calls(looped)
    quantize_gemms(model, ALL)
    with pytest.raises(UncoveredError, match="model itself: while_loop"):
        model(torch.randn(8, 8))


def test_quantized_modules_are_refused_by_name():
    plain = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model = nn.Sequential(torch.ao.quantization.quantize_dynamic(plain[:1]), plain[1])
    quantize_gemms(model, ALL)
    with pytest.raises(UncoveredError, match=r"0\.0: quantized\.linear_dynamic"):
        model(torch.randn(8, 8))


def test_the_watch_sees_what_is_left_out():
    model, inputs = built("own")
    quantize_gemms(model, ALL, attention=True, exclude="fc")
    with Watch() as watch:
        loss_of(model, inputs).backward()
    assert len(watch.bad) == 2  # forward and the weight's gradient; the input has none


@pytest.mark.parametrize("name", [name for name in (*OWN, *ARCHITECTURES) if name != "Bloom"])
def test_every_elementwise_operation_of_a_forward_is_known(name):
    """Else the first forward raises; the gradients are those of PyTorch, nearly. Bloom writes out
    the gradient of its GELU in an autograd Function.
    """
    results = []
    for rounded in (False, True):
        model, inputs = built(name)
        if rounded:
            quantize_elementwise(model, Recipe(elementwise="float<8,22>/nearest_even"))
        loss_of(model.train(), inputs).backward()
        model.zero_grad()
        loss = loss_of(model.eval(), inputs)
        loss.backward()
        found = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
        results.append({"loss": loss.detach(), **found})
    plain, near = results
    assert set(plain) == set(near)
    for key, expected in plain.items():
        scale = expected.abs().max() + 1e-3
        torch.testing.assert_close(near[key] / scale, expected / scale, rtol=1e-3, atol=1e-3)
