"""Axes by words: each module's output channels, wherever they stand, have a scale of their own."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from qemu_swalp_torch import SGD, Averager, quantize_optimizer
from torch import nn
from torch.nn.utils import prune

import qemu_swalp
from qemu_swalp.training import (
    ASWA,
    EMA,
    LAWA,
    SGD as CoreSGD,
    SQWA,
    SWAG,
    SWAP,
    Averaging,
    Recipe,
    register_layout,
    swalp,
)

SWALP = Recipe("bfp<4,axis=out>", gradient="bfp<4,axis=out>", momentum="bfp<4,axis=out>")


def spread(*shape, axis=0):
    """Numbers whose magnitudes differ along an axis, so that scales along another lose them."""
    x = torch.randn(*shape)
    lengths = [1] * x.ndim
    lengths[axis] = shape[axis]
    return x * torch.exp2(torch.linspace(-8, 8, shape[axis])).reshape(lengths)


def rounded(module, name, word="out", model=None):
    """A parameter of wide-ranged numbers before and after `quantize_optimizer` rounds it."""
    p = module.get_parameter(name)
    with torch.no_grad():
        p.copy_(torch.randn(p.shape) * torch.exp2(torch.randint(-8, 8, p.shape)))
    before = p.detach().clone()
    recipe = Recipe(f"bfp<4,axis={word}>")
    quantize_optimizer(torch.optim.SGD([p], 0.1), recipe, model=model)
    return before, p.detach()


def channels(x, *axes):
    """x with one row for each index of some axes."""
    x = x.movedim(axes, tuple(range(len(axes))))
    return x.flatten(len(axes)).flatten(0, len(axes) - 1) if axes else x.reshape(1, -1)


def each_row(rows):
    return torch.stack([qemu_swalp.quantize(row.contiguous(), "bfp4") for row in rows])


KINDS = {
    "Linear": (lambda: nn.Linear(3, 4), "weight", (0,), (1,)),
    "Bilinear": (lambda: nn.Bilinear(3, 2, 4), "weight", (0,), (1, 2)),
    "Conv1d": (lambda: nn.Conv1d(3, 4, 2), "weight", (0,), (1,)),
    "Conv2d": (lambda: nn.Conv2d(3, 4, 2), "weight", (0,), (1,)),
    "Conv3d": (lambda: nn.Conv3d(3, 4, 2), "weight", (0,), (1,)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(3, 4, 2), "weight", (1,), (0,)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(3, 4, 2), "weight", (1,), (0,)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(3, 4, 2), "weight", (1,), (0,)),
    "Embedding": (lambda: nn.Embedding(5, 3), "weight", (0,), (1,)),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(5, 3), "weight", (0,), (1,)),
    "RNN": (lambda: nn.RNN(3, 4), "weight_ih_l0", (0,), (1,)),
    "LSTM": (lambda: nn.LSTM(3, 4, bidirectional=True), "weight_hh_l0_reverse", (0,), (1,)),
    "LSTM, projected": (lambda: nn.LSTM(3, 4, proj_size=2), "weight_hr_l0", (0,), (1,)),
    "GRUCell": (lambda: nn.GRUCell(3, 4), "weight_hh", (0,), (1,)),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(4, 2), "in_proj_weight", (0,), (1,)),
    "its keys": (lambda: nn.MultiheadAttention(4, 2, kdim=3), "k_proj_weight", (0,), (1,)),
    "its output": (lambda: nn.MultiheadAttention(4, 2), "out_proj.weight", (0,), (1,)),
    "its biases": (lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True), "bias_k", (), ()),
    "LayerNorm": (lambda: nn.LayerNorm((3, 4)), "weight", (), ()),
    "RMSNorm": (lambda: nn.RMSNorm((3, 4)), "weight", (), ()),
    "a vector": (lambda: nn.Linear(3, 4), "bias", (), ()),
    "a scalar": (lambda: nn.ParameterList([torch.ones(())]), "0", (), ()),
    "weight_norm": (
        lambda: nn.utils.parametrizations.weight_norm(nn.ConvTranspose1d(3, 4, 2)),
        "parametrizations.weight.original1",
        (1,),
        (0,),
    ),
    "weight_norm of old": (
        lambda: nn.utils.weight_norm(nn.ConvTranspose1d(3, 4, 2)),
        "weight_v",
        (1,),
        (0,),
    ),
    "pruned": (
        lambda: prune.identity(nn.ConvTranspose1d(3, 4, 2), "weight"),
        "weight_orig",
        (1,),
        (0,),
    ),
    "compiled": (
        lambda: torch.compile(nn.ConvTranspose1d(3, 4, 2)),
        "_orig_mod.weight",
        (1,),
        (0,),
    ),
    "subclass": (lambda: type("Ours", (nn.Linear,), {})(3, 4), "weight", (0,), (1,)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_each_channel_has_its_scale(same, kind):
    make, name, out, in_ = KINDS[kind]
    for word, axes in (("out", out), ("in", in_)):
        before, after = rounded(make(), name, word)
        if before.ndim == 0:
            same(after, qemu_swalp.quantize(before, "bfp4"))
        else:
            same(channels(after, *axes), each_row(channels(before, *axes)))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_groups_of_a_transposed_convolution_have_their_own_channels(same, groups):
    module = nn.ConvTranspose2d(4, 8, 2, groups=groups)
    before, after = rounded(module, "weight")
    per_group = (groups, 4 // groups, 8 // groups, 2, 2)
    by_channel = [x.reshape(per_group).transpose(1, 2).reshape(8, -1) for x in (before, after)]
    same(by_channel[1], each_row(by_channel[0]))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_groups_of_a_convolution_have_their_own_inputs(same, groups):
    module = nn.Conv2d(4, 8, 2, groups=groups)
    before, after = rounded(module, "weight", "in")
    per_group = (groups, 8 // groups, 4 // groups, 2, 2)
    by_channel = [x.reshape(per_group).transpose(1, 2).reshape(4, -1) for x in (before, after)]
    same(by_channel[1], each_row(by_channel[0]))


@pytest.mark.parametrize("kind", ["hooks", "native"])
def test_transposed_layouts_train_to_the_same_numbers(same, kind):
    """A Conv1D of transformers, (in, out), against a Linear, (out, in): weights and momenta."""
    transformers = pytest.importorskip("transformers")
    linear, conv1d = nn.Linear(6, 5), transformers.pytorch_utils.Conv1D(5, 6)
    with torch.no_grad():
        linear.weight.copy_(spread(5, 6))
        conv1d.weight.copy_(linear.weight.T)
    if kind == "native":
        opts = [SGD(m.parameters(), 0.1, 0.9, recipe=SWALP) for m in (linear, conv1d)]
    else:
        plain = [torch.optim.SGD(m.parameters(), 0.1, momentum=0.9) for m in (linear, conv1d)]
        opts = [quantize_optimizer(opt, SWALP) for opt in plain]
    for _ in range(3):
        g = spread(5, 6)
        linear.weight.grad, conv1d.weight.grad = g, g.T.contiguous()
        for opt in opts:
            opt.step()
        same(linear.weight, conv1d.weight.T)
        momenta = [
            opt.state[m.weight]["momentum_buffer"]
            for opt, m in zip(opts, (linear, conv1d), strict=True)
        ]
        same(momenta[0], momenta[1].T)


def test_runs_along_the_sum(same):
    """A size with a word: MX blocks of a stored weight along its inputs."""
    mx = "block<e2m1fn,axis=sum,size=4,scale=e8m0fnu>"
    linear = nn.Linear(8, 3)
    before = linear.weight.detach().clone()
    quantize_optimizer(torch.optim.SGD([linear.weight], 0.1), Recipe(mx))
    same(linear.weight.detach(), qemu_swalp.quantize(before, qemu_swalp.parse(mx).resolve(sum=1)))
    conv = nn.Conv2d(3, 4, 2)
    with pytest.raises(ValueError, match="'sum' stands for axes 1, 2, 3 together"):
        quantize_optimizer(torch.optim.SGD(conv.parameters(), 0.1), Recipe(mx))


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(2, 3, 4))


def test_an_unknown_layout_is_refused_until_it_is_registered(same):
    class Ours(Experts):
        pass

    module = Ours()
    before = module.kernel.detach().clone()

    def opt():
        return torch.optim.SGD(module.named_parameters(), 0.1)

    with pytest.raises(
        ValueError,
        match=r"kernel, of shape \(2, 3, 4\): .*word 'out', and no layout is known of Ours\.kernel;"
        r" tell it by qemu_swalp\.training\.register_layout\(Ours, \{'kernel': .*"
        r"recipe\.resolve\(out=0\)",
    ):
        quantize_optimizer(opt(), SWALP)
    same(module.kernel.detach(), before)
    quantize_optimizer(opt(), Recipe(**SWALP.to_dict(), overrides={"kernel": SWALP.resolve(out=0)}))
    quantize_optimizer(opt(), Recipe(**SWALP.to_dict(), overrides={"kernel": None}))
    register_layout(Ours, {"kernel": {"out": (0, 2), "in": (0, 1)}})
    with torch.no_grad():
        module.kernel.copy_(before)
    quantize_optimizer(opt(), SWALP)
    same(channels(module.kernel.detach(), 0, 2), each_row(channels(before, 0, 2)))


def test_a_parameter_without_a_module_is_refused():
    for make in (
        lambda p: SGD([p], recipe=swalp(8)),
        lambda p: quantize_optimizer(torch.optim.SGD([p], 0.1), swalp(8)),
    ):
        with pytest.raises(
            ValueError, match=r"no layer holds it; give .* recipe\.resolve\(out=0\)"
        ):
            make(nn.Parameter(torch.ones(2, 3)))
        make(nn.Parameter(torch.ones(3)))


def test_modules_that_share_a_parameter_must_agree():
    embedding, head = nn.Embedding(5, 4), nn.Linear(4, 5)
    head.weight = embedding.weight
    quantize_optimizer(torch.optim.SGD([head.weight], 0.1), SWALP)
    transposed = nn.ConvTranspose1d(5, 4, 1)
    head.weight = transposed.weight
    with pytest.raises(ValueError, match=r"shared by layers of .*Linear\.weight"):
        quantize_optimizer(torch.optim.SGD([head.weight], 0.1), SWALP)


@pytest.mark.parametrize("kind", ["hooks", "native"])
def test_copies_know_the_layouts_without_the_modules(same, kind):
    """Pickled or copied alone, and after loading a state."""

    def made(module):
        if kind == "native":
            return SGD(module.parameters(), 0.1, recipe=SWALP)
        return quantize_optimizer(torch.optim.SGD(module.parameters(), 0.1), SWALP)

    opt = made(nn.ConvTranspose1d(3, 4, 2))
    for other in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        weight = other.param_groups[0]["params"][0]
        weight.grad = spread(3, 4, 2, axis=1)
        before = weight.detach() - 0.1 * qemu_swalp.quantize(
            weight.grad, "bfp<4,axis=1>", "nearest_even"
        )
        other.step()
        same(weight.detach(), qemu_swalp.quantize(before, "bfp<4,axis=1>"))
    fresh = made(nn.ConvTranspose1d(3, 4, 2))
    fresh.load_state_dict(json.loads(json.dumps(opt.state_dict())))
    assert fresh.param_groups[0]["qemu_layouts"] == opt.param_groups[0]["qemu_layouts"]


def test_checkpoints_with_numbers_go_on_where_they_say_the_same():
    """As drafts saved them: axis 0 is the output channel of a Linear, not of its transpose."""
    numbers = SWALP.resolve(out=0)
    for module, agrees in ((nn.Linear(3, 4), True), (nn.ConvTranspose1d(3, 4, 2), False)):
        saved = quantize_optimizer(torch.optim.SGD(module.parameters(), 0.1), numbers).state_dict()
        opt = quantize_optimizer(torch.optim.SGD(module.parameters(), 0.1), SWALP)
        if agrees:
            opt.load_state_dict(saved)
            assert json.loads(opt.param_groups[0]["qemu_recipe"]) == SWALP.to_dict()
        else:
            with pytest.raises(ValueError, match=r"weight is bfp<4,axis=0>.* in the checkpoint"):
                opt.load_state_dict(saved)


def test_equal_to_the_core_whose_axis_is_given(same):
    """And to NumPy's SGD, stochastic rounding included."""
    module = nn.ConvTranspose1d(5, 4, 3)
    weight = module.weight.detach().numpy().copy()
    recipe = Recipe("bfp<8,axis=out>/stochastic", momentum="bfp<8,axis=out>/stochastic")
    opt = SGD([module.weight], 0.1, 0.9, recipe=recipe, seed=5)
    core = CoreSGD(0.1, 0.9, recipe=recipe.resolve(out=1), seed=5)
    params = {"w": weight}
    state = core.init(params)
    for _ in range(3):
        g = np.float32(np.random.default_rng(0).standard_normal(weight.shape))
        module.weight.grad = torch.tensor(g)
        opt.step()
        params, state = core.update(params, {"w": g}, state)
        same(module.weight.detach(), torch.tensor(params["w"]))


POLICIES = {
    "Averaging": lambda q: Averaging(quantizer=q),
    "EMA": lambda q: EMA(decay=0.5, quantizer=q),
    "LAWA": lambda q: LAWA(size=2, quantizer=q),
    "ASWA": lambda q: ASWA(score=lambda params: 1.0, quantizer=q),
    "SQWA": lambda q: SQWA(cycle=1, captures=2, quantizer=q),
    "SWAP": lambda q: SWAP(quantizer=q),
    "SWAG": lambda q: SWAG(quantizer=q),
}


@pytest.mark.parametrize("policy", POLICIES)
def test_averages_know_the_layouts(same, policy):
    """The same average as by the number of the axis."""
    module = nn.Sequential(nn.ConvTranspose1d(3, 4, 2), nn.LayerNorm(4))
    words = Averager(module, POLICIES[policy]("bfp<4,axis=out>"))
    weight = Averager([("0.weight", module[0].weight)], POLICIES[policy]("bfp<4,axis=1>"))
    for _ in range(2):
        with torch.no_grad():
            module[0].weight.copy_(spread(3, 4, 2, axis=1))
        words.update()
        weight.update()
    same(words.average()["0.weight"], weight.average()["0.weight"])


def test_an_average_of_unknown_layout_is_refused():
    with pytest.raises(ValueError, match=r"w, of shape \(2, 3\): .*resolve\(out=0\)"):
        Averager({"w": torch.ones(2, 3)}, quantizer="bfp<4,axis=out>")
    averaging = Averaging(quantizer="bfp<4,axis=out>", layouts={"w": {"out": 1}})
    assert Averager({"w": torch.ones(2, 3)}, averaging).rule.layouts == {"w": {"out": 1}}
