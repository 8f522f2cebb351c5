"""Products whose operands are transformed and multiplied by factors before they are rounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from qemu_swalp_torch import emulate, quantize_gemms, quantize_optimizer
from qemu_swalp_torch.tensors.call_counters import stream
from torch import Tensor, nn
from torch.nn import functional as F

import qemu_swalp as q
from qemu_swalp.training import Recipe

KINDS = ("input", "weight", "error")
EXACT = dict.fromkeys(KINDS, "float<11,52>")
FP4 = {"input": "nvfp4", "weight": "nvfp4", "error": "nvfp4/stochastic"}
TURNS = {
    "forward": "hadamard<4,signs=fixed>",
    "dgrad": "hadamard<8,signs=random>",
    "wgrad": "hadamard<16>",
}
FACTORS = {"input": 0.75, "weight": 3, "error": 1000}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(6, 18)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.proj(x).chunk(3, -1)
        return F.scaled_dot_product_attention(a, b, c)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(7, 5), (2, 3, 7)),
    "conv1d": (lambda: nn.Conv1d(3, 5, 3, stride=2, padding=1), (2, 3, 9)),
    "conv2d": (lambda: nn.Conv2d(6, 4, (3, 2), dilation=2, groups=2), (2, 6, 8, 7)),
    "pointwise": (lambda: nn.Conv2d(6, 4, 1), (2, 6, 4, 3)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4, padding="same"), (1, 4, 5, 5)),
    "transposed": (
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2),
        (2, 4, 5, 3),
    ),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (1, 2, 4, 3, 3)),
    "attention": (Attention, (2, 5, 6)),
    "bilinear": (lambda: _Twice(nn.Bilinear(3, 3, 2)), (4, 3)),
    "lstm": (lambda: _First(nn.LSTM(5, 4)), (6, 2, 5)),
}


class _Twice(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x.flip(0))


class _First(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0]


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = model(x)
    error = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    return [y.detach(), *torch.autograd.grad(y, [x, *model.parameters()], error)]


SUMMED = ("linear", "conv2d", "transposed", "depthwise")
"""Of the models, those whose products are also accumulated by `qemu_swalp.matmul`."""


@pytest.mark.parametrize(
    ("name", "sums"),
    [*((name, ()) for name in MODELS), *((name, "float<11,50>/nearest_even") for name in SUMMED)],
)
def test_without_rounding_nothing_changes(name: str, sums: Any) -> None:
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model, x = make().double(), torch.randn(shape, dtype=torch.float64)
    plain = gradients(model, x)
    recipe = Recipe(
        operands=EXACT,
        sums=sums,
        transforms=TURNS,
        factors=FACTORS,
    )
    quantize_gemms(model, recipe, attention=True)
    for found, expected in zip(gradients(model, x), plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operands_have_the_cores_bits(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    model, x = nn.Linear(40, 24, bias=False).to(dtype), torch.randn(48, 40).to(dtype)
    recipe = Recipe(operands=FP4, transforms=TURNS, factors=FACTORS)
    operands = [x, model.weight.detach()]
    quantize_gemms(model, recipe, seed=7)
    y, dx, dw = gradients(model, x)
    error = torch.linspace(-1, 1, y.numel(), dtype=dtype).reshape(y.shape)

    def operand(tensor: Tensor, name: str) -> Tensor:
        product, _, kind = name.partition(".")
        turn = q.RandomBits(7, stream(f"{product}.transform", 0))
        bits = q.RandomBits(7, stream(name, 0))
        scaled = tensor * FACTORS[kind]
        turned = q.hadamard_transform(scaled, TURNS[product], random=turn)
        quantizer = recipe.quantizer(name)
        assert quantizer is not None
        return quantizer(turned, random=bits)

    a, w = operands
    torch.testing.assert_close(
        y,
        F.linear(operand(a, "forward.input"), operand(w, "forward.weight"))
        * (1 / (FACTORS["input"] * FACTORS["weight"])),
        rtol=0,
        atol=0,
    )
    torch.testing.assert_close(
        dx,
        F.linear(operand(error, "dgrad.error"), operand(w.t(), "dgrad.weight"))
        * (1 / (FACTORS["error"] * FACTORS["weight"])),
        rtol=0,
        atol=0,
    )
    torch.testing.assert_close(
        dw,
        F.linear(operand(error.t(), "wgrad.error"), operand(a.t(), "wgrad.input"))
        * (1 / (FACTORS["error"] * FACTORS["input"])),
        rtol=0,
        atol=0,
    )


def test_signs_are_drawn_anew_at_each_call_and_differ_between_products() -> None:
    model = nn.Linear(64, 8, bias=False)
    recipe = Recipe(operands={"forward.input": "e2m1fn"}, transforms="hadamard<64,signs=random>")
    quantize_gemms(model, recipe, seed=0)
    x = torch.randn(3, 64)
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize("name", ["linear", "conv2d", "attention"])
def test_compiled_and_recomputed_have_the_same_bits(name: str) -> None:
    make, shape = MODELS[name]
    torch.manual_seed(2)
    plain, x = make(), torch.randn(shape)
    recipe = Recipe(operands=FP4, transforms=TURNS, factors=FACTORS)

    def results(wrap: Callable[[nn.Module], Any]) -> list[Tensor]:
        model = make()
        model.load_state_dict(plain.state_dict())
        quantize_gemms(model, recipe, attention=True, seed=3)
        call = wrap(model)
        found = []
        for _ in range(2):
            a = x.clone().requires_grad_()
            y = call(a)
            found += [y.detach(), *torch.autograd.grad(y.sum(), [a, *model.parameters()])]
        return found

    eager = results(lambda model: model)
    compiled = results(lambda model: torch.compile(model, fullgraph=True, backend="aot_eager"))
    recomputed = results(
        lambda model: lambda a: torch.utils.checkpoint.checkpoint(model, a, use_reentrant=False)
    )
    for other in (compiled, recomputed):
        assert all(torch.equal(a, b) for a, b in zip(eager, other, strict=True))


def test_second_derivatives_and_samples() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    quantize_gemms(model, Recipe(operands=EXACT, transforms="hadamard<4>", factors=FACTORS))
    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda a: model(a).sum(), x)
    params = dict(model.named_parameters())

    def loss(p: dict[str, Tensor], sample: Tensor) -> Tensor:
        return torch.func.functional_call(model, p, (sample,)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(params, x.detach())
    for i in range(2):
        one = torch.func.grad(loss)(params, x.detach()[i])
        for name, gradient in one.items():
            torch.testing.assert_close(each[name][i], gradient)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.blocks = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6))
        self.head = nn.Linear(6, 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(x)))


def test_layers_by_position() -> None:
    model = Tied()
    recipe = Recipe(
        weight="bfp8",
        operands={"input": "mxfp4"},
        overrides={"@layers[-1]": None, "@layers[0]": Recipe(operands={"input": "e4m3fn"})},
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    handle = emulate(model, optimizer, recipe)
    model(torch.zeros(2, 3, dtype=torch.int64)).sum().backward()
    shown = str(handle)
    assert [line.split()[3] for line in shown.splitlines() if "blocks." in line] == [
        "e4m3fn",
        "mxfp4",
    ]
    assert "excluded" in next(line for line in shown.splitlines() if "head" in line)
    rounded = {
        name: torch.equal(p, q.quantize(p.detach(), "bfp8"))
        for name, p in model.named_parameters()
        if p.ndim > 1
    }
    assert rounded == {
        "embed.weight": True,
        "blocks.0.weight": False,
        "blocks.2.weight": True,
        "head.weight": False,
    }


def test_positions_need_the_model() -> None:
    model = nn.Linear(3, 2)
    recipe = Recipe(weight="bfp8", overrides={"@layers[0]": None})
    with pytest.raises(ValueError, match="model="):
        quantize_optimizer(
            torch.optim.SGD(model.parameters(), 0.1),
            recipe,
            named_parameters=model.named_parameters(),
        )
    with pytest.raises(ValueError, match="none of 1 layers"):
        quantize_gemms(model, Recipe(operands={"input": "bfp8"}, overrides={"@layers[2]": None}))


def test_the_table_shows_transforms_and_factors() -> None:
    model = nn.Linear(16, 4)
    handle = emulate(model, None, Recipe(operands=FP4, transforms=TURNS, factors={"error": 0.75}))
    model(torch.ones(1, 16)).sum().backward()
    shown = str(handle)
    for words in ("wgrad.transform", "hadamard<8,signs=random>", "wgrad.error (factor=0.75)"):
        assert words in shown
