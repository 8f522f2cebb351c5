"""Products summed up in low precision: the core's bits in every product, by hand, compiled and
recomputed.
"""

import copy

import numpy as np
import pytest
import torch
from qemu_swalp_torch import SGD, Matmul, disabled, quantize_gemms
from torch import nn

from qemu_swalp import Quantizer, RandomBits, matmul, stream_id
from qemu_swalp.training import SUMS, Recipe

NEAREST = Recipe(
    sums=dict(
        zip(
            SUMS,
            ["fp16/nearest_even; chunk=4", "float<6,9>/toward_zero", "e5m2/nearest_even"],
            strict=True,
        )
    )
)
STOCHASTIC = Recipe(
    operands={"input": "e4m3fn/stochastic", "error": "e5m2/stochastic"},
    sums="fp16/stochastic; product=e5m2; chunk=3",
)
BOTH = pytest.mark.parametrize("recipe", [NEAREST, STOCHASTIC], ids=["nearest", "stochastic"])


def core(recipe, seed, place, call, part=""):
    """The core's functions for operands and sums, with the bits of a call."""

    def random(role):
        return RandomBits(seed, stream_id(role + part, place), call)

    def rounded(operand, x):
        quantizer = recipe.quantizer(operand)
        return x if quantizer is None else quantizer(x.contiguous(), random(operand))

    def summed(name, a, b):
        return matmul(a, b, recipe.accumulation(name), random=random(name))

    return rounded, summed


@BOTH
def test_a_linear_layer_by_hand(same, recipe):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(7, 5))
    quantize_gemms(model, recipe, seed=9)
    w, b = model[0].weight.detach(), model[0].bias.detach()
    for call in range(2):
        x, e = torch.randn(2, 3, 7, requires_grad=True), torch.randn(2, 3, 5)
        model.zero_grad()
        y = model(x)
        y.backward(e)
        q, summed = core(recipe, 9, 1, call)
        rows, errors = x.detach().reshape(6, 7), e.reshape(6, 5)
        same(y, (summed("forward.sum", q("forward.input", rows), w.t()) + b).reshape(2, 3, 5))
        same(x.grad, summed("dgrad.sum", q("dgrad.error", errors), w).reshape(2, 3, 7))
        same(
            model[0].weight.grad,
            summed("wgrad.sum", q("wgrad.error", errors.t()), q("wgrad.input", rows.t()).t()),
        )
        same(model[0].bias.grad, errors.sum(0))


@BOTH
def test_a_product_of_activations_by_hand(same, recipe):
    model = Matmul()
    recipe = Recipe(sums=recipe.sums)
    quantize_gemms(model, recipe, attention=True, seed=4)
    a, b = torch.randn(2, 1, 3, 4, requires_grad=True), torch.randn(5, 4, 6, requires_grad=True)
    y, (_, summed) = model(a, b), core(recipe, 4, 0, 0)
    e = torch.randn(y.shape)
    y.backward(e)
    same(y, summed("forward.sum", a.detach(), b.detach()))
    same(a.grad, summed("dgrad.sum", e, b.detach().mT).sum(1, keepdim=True))
    same(b.grad, summed("wgrad.sum", a.detach().mT, e).sum(0))


def one(name, pairs):
    """The sum of products of pairs, one after the other, as `NEAREST` says. Exact zeros between
    them would not show.
    """
    a, b = (np.float32([[pair[side] for pair in pairs]]) for side in (0, 1))
    return matmul(a, b.T, NEAREST.accumulation(name)).item()


def by_hand(x, w, e, stride, padding, dilation):
    """(output, gradient of input, of weight) of a convolution along one axis with one group, pair
    by pair.
    """
    (batch, channels, length), (outputs, _, kernel), pixels = x.shape, w.shape, e.shape[2]

    def at(p, k):
        return p * stride - padding + k * dilation

    def inside(s):
        return 0 <= s < length

    y, dx, dw = np.zeros(e.shape), np.zeros(x.shape), np.zeros(w.shape)
    for n, o, p in np.ndindex(y.shape):
        y[n, o, p] = one(
            "forward.sum",
            [
                (x[n, c, at(p, k)] if inside(at(p, k)) else 0.0, w[o, c, k])
                for c in range(channels)
                for k in range(kernel)
            ],
        )
    for n, c, s in np.ndindex(dx.shape):
        met = [
            (e[n, o, p], w[o, c, k])
            for o in range(outputs)
            for k in reversed(range(kernel))
            for p in range(pixels)
            if at(p, k) == s
        ]
        dx[n, c, s] = one("dgrad.sum", met or [(0.0, 0.0)])
    for o, c, k in np.ndindex(dw.shape):
        dw[o, c, k] = one(
            "wgrad.sum",
            [
                (e[n, o, p], x[n, c, at(p, k)] if inside(at(p, k)) else 0.0)
                for n in range(batch)
                for p in range(pixels)
            ],
        )
    return y, dx, dw


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1},
        {"stride": 3, "padding": 2, "dilation": 2},
        {"kernel_size": 1, "stride": 2},
    ],
    ids=str,
)
def test_a_convolution_by_hand(options):
    module = nn.Conv1d(3, 4, **{"kernel_size": 3} | options)
    quantize_gemms(module, NEAREST)
    x = torch.randn(2, 3, 9, requires_grad=True)
    y = module(x)
    e = torch.randn(y.shape)
    y.backward(e)
    numbers = (module.stride[0], module.padding[0], module.dilation[0])
    expected = by_hand(x.detach().numpy(), module.weight.detach().numpy(), e.numpy(), *numbers)
    assert (
        expected[0].astype(np.float32) + module.bias.detach().numpy()[:, None] == y.detach().numpy()
    ).all()
    assert (expected[1] == x.grad.numpy()).all()
    assert (expected[2] == module.weight.grad.numpy()).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("channels", "outputs", "shape", "options"),
    [
        (3, 16, (9, 7), {"padding": 1}),
        (2, 17, (9, 8), {"stride": 2, "padding": (0, 2), "dilation": (2, 1)}),
        (4, 40, (5, 6), {"groups": 2, "stride": (3, 1)}),
        (2, 4, (6, 5), {}),
    ],
    ids=str,
)
def test_images_that_are_copied_in_rows(channels, outputs, shape, options, dtype):
    """Of few and many outputs, with numbers that are none among them, as products of all that
    kernels meet, in the order of the sums.
    """
    torch.manual_seed(1)
    module = nn.Conv2d(channels, outputs, 3, bias=False, dtype=dtype, **options)
    rule = "e5m2/nearest_even; chunk=7"
    quantize_gemms(module, Recipe(sums=rule))
    x = torch.randn(2, channels, *shape, dtype=dtype)
    x[0, 0, 0], x[1, 1, 2, 3], x[0, 1, 3, 2] = 0.0, torch.inf, torch.nan
    x.requires_grad_()
    y = module(x)
    e = torch.randn_like(y)
    y.backward(e)
    groups = module.groups
    geometry = {k: v for k, v in options.items() if k != "groups"}
    met = nn.functional.unfold(x.detach(), 3, **geometry).unflatten(1, (groups, -1))
    w = module.weight.detach().reshape(groups, outputs // groups, -1)
    product = matmul(met.mT.contiguous(), w.mT.contiguous(), rule)  # (B, G, P, O/G)
    assert y.is_contiguous()
    same_numbers(y, product.mT.reshape(y.shape))
    errors = e.reshape(2, groups, outputs // groups, -1).movedim(0, 2).flatten(2)  # (G, O/G, B·P)
    pixels = met.permute(1, 0, 3, 2).flatten(1, 2)  # (G, B·P, C/G·k)
    product = matmul(errors.contiguous(), pixels.contiguous(), rule)
    same_numbers(module.weight.grad, product.reshape(module.weight.shape))


def same_numbers(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


CONVOLUTIONS = [
    (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False), (2, 4, 6, 5)),
    (nn.Conv2d(4, 5, (1, 2), dilation=2, stride=(2, 3)), (4, 3, 9)),
    (nn.Conv3d(4, 2, 2, padding=(0, 1, 0)), (1, 4, 3, 3, 2)),
    (nn.Conv1d(2, 3, 3, padding="same", padding_mode="circular"), (2, 2, 5)),
    (nn.ConvTranspose1d(4, 7, 3, stride=2), (2, 4, 5)),
    (nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2), (2, 6, 3, 4)),
    (nn.ConvTranspose1d(4, 6, 2, stride=2, dilation=3, output_padding=2), (2, 4, 5)),
]


@pytest.mark.parametrize(("module", "shape"), CONVOLUTIONS, ids=lambda v: str(v)[:60])
def test_every_convolution_multiplies_what_pytorch_does(module, shape):
    """Rounded once, at the end, to 24 bits."""
    plain, module = copy.deepcopy(module), copy.deepcopy(module)
    quantize_gemms(module, Recipe(sums="float<8,23>/nearest_even; group=2147483647"))
    x = torch.randn(shape, requires_grad=True)
    x_plain = x.detach().clone().requires_grad_()
    y, y_plain = module(x), plain(x_plain)
    e = torch.randn_like(y_plain)
    y.backward(e)
    y_plain.backward(e)
    for found, expected in (
        (y, y_plain),
        (x.grad, x_plain.grad),
        (module.weight.grad, plain.weight.grad),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.ConvTranspose1d])
def test_two_groups_are_two_convolutions(same, kind):
    whole, halves = (
        kind(8, 4, 3, groups=2, bias=False, stride=2),
        [kind(4, 2, 3, bias=False, stride=2) for _ in "ab"],
    )
    for half, weight in zip(halves, whole.weight.detach().chunk(2), strict=True):
        half.weight = nn.Parameter(weight.clone())
    for module in (whole, *halves):
        quantize_gemms(module, NEAREST)
    x = torch.randn(2, 8, 6)
    same(
        whole(x),
        torch.cat([half(part) for half, part in zip(halves, x.chunk(2, 1), strict=True)], 1),
    )


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv1d(3, 4, 3, stride=2), nn.Linear(8, 5)
        self.attention = nn.MultiheadAttention(5, 1, batch_first=True)

    def forward(self, x):
        x = self.fc(self.conv(x).relu().flatten(1))[None]
        return self.attention(x, x, x, need_weights=False)[0]


@BOTH
def test_compiled_and_recomputed_it_has_the_same_bits(same, same_every_way, recipe):
    def quantized(model):
        assert quantize_gemms(model, recipe, attention=True, seed=0).names == [
            "conv",
            "fc",
            "attention",
        ]

    torch.manual_seed(0)
    model, x = Net(), torch.randn(4, 3, 6)
    same_every_way(model, quantized, x)
    with disabled(model):
        same(model(x), Net.forward(model, x))


def test_gradients_of_gradients_pass_the_sums():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    quantize_gemms(model, NEAREST)
    x = torch.randn(5, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert model[0].weight.grad.abs().sum() > 0


def test_the_memory_of_weights_can_still_be_freed():
    """As FSDP does with those that it has gathered."""
    layer = nn.Linear(300, 300, bias=False)
    quantize_gemms(layer, NEAREST)
    layer(torch.ones(1, 300, requires_grad=True)).sum().backward()
    layer.weight.untyped_storage().resize_(0)


def test_a_recipe_of_narrow_sums_trains():
    """fp8_ibm, and what its sums are for: long ones stop short without chunks."""
    torch.manual_seed(0)
    x = torch.rand(256, 512)
    target = x.mean(1, keepdim=True)
    losses = {}
    for sums in ("float<6,9>/nearest_even; chunk=64", "float<6,4>/nearest_even"):
        model = nn.Linear(512, 1)
        nn.init.constant_(model.weight, 0.01)
        quantize_gemms(model, Recipe(sums=sums))
        optimizer = SGD(model.parameters(), lr=0.004, recipe="fp8_ibm")
        for _ in range(30):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), target)
            loss.backward()
            optimizer.step()
        losses[sums] = loss.item()
    chunked, narrow = losses.values()
    assert chunked < narrow / 4


def test_errors():
    model = nn.Linear(3, 2)
    with pytest.raises(
        ValueError, match=r"nothing to round: quantize_gemms applies the section .products."
    ):
        quantize_gemms(model, Recipe(weight="bf16/stochastic"))
    quantize_gemms(model, Recipe(sums=Quantizer("fp16/nearest_even")))
    with pytest.raises(TypeError, match="an array of bfloat16 cannot represent the values of fp16"):
        model.bfloat16()(torch.ones(1, 3, dtype=torch.bfloat16))
