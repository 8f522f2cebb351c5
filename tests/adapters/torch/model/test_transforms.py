"""`torch.func` on rounded models: the bits of `backward`; each sample is a tensor of its own."""

import pytest
import torch
from qemu_swalp_torch import emulate
from qemu_swalp_torch.tensors.straight_through import quantize
from qemu_swalp_torch.tensors.transforms import FACTOR
from torch import nn
from torch.func import functional_call, grad, vmap

from qemu_swalp import RandomBits
from qemu_swalp.training import Recipe

SUM = "fp16/nearest_even; chunk=8"
RECIPES = {
    "activations": Recipe(activation="e4m3fn", error="e5m2"),
    "blocks": Recipe(
        operands={"input": "bfp<6,axis=-1>", "weight": "e4m3fn", "error": "bfp<6,axis=-1>"}
    ),
    "sums": Recipe(
        operands={"input": "bfp<6>"},
        sums={"forward.sum": SUM, "dgrad.sum": SUM, "wgrad.sum": SUM},
    ),
    "elementwise": Recipe(operands={"input": "bfp<6>"}, elementwise="bf16"),
}


class Model(nn.Module):
    """A convolution, normalization, a layer and a product written out."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3, padding=1), nn.LayerNorm(32)
        self.layer, self.w = nn.Linear(32, 4), nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        x = self.conv(x).relu().flatten(-3)
        x = self.layer(self.norm(x))
        return torch.softmax(x @ self.w, -1)


@pytest.fixture(params=RECIPES)
def emulated(request):
    torch.manual_seed(0)
    model = Model()
    emulate(model, None, RECIPES[request.param])
    return model, request.param


X = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def loss_of(model):
    return lambda parameters, x: functional_call(model, parameters, (x,)).square().sum()


def backward(model, x):
    parameters = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}
    found = torch.autograd.grad(loss_of(model)(parameters, x), list(parameters.values()))
    return dict(zip(parameters, found, strict=True))


def detached(model):
    return {name: p.detach() for name, p in model.named_parameters()}


def test_grad_has_the_bits_of_backward(emulated):
    model, _ = emulated
    expected, found = backward(model, X), grad(loss_of(model))(detached(model), X)
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


def test_gradients_of_samples_are_those_of_each_sample_alone(emulated):
    model, recipe = emulated
    found = vmap(grad(loss_of(model)), in_dims=(None, 0))(detached(model), X)
    for i, x in enumerate(X):
        for name, gradient in backward(model, x[None]).items():
            if recipe in ("blocks", "sums"):  # in the others, too, up to PyTorch's own products
                torch.testing.assert_close(found[name][i], gradient, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(found[name][i], gradient, rtol=0.02, atol=2e-3)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_sample_is_a_tensor_of_its_own(axis):
    """One exponent for each sample, and the same number for all where the scales are one's own."""
    x = torch.randn(4, 4, 4) * torch.tensor([1.0, 1e3, 1e-3, 30.0])[:, None, None]
    x = x.movedim(0, axis)
    found = vmap(lambda s: quantize(s, "bfp<6>"), in_dims=axis)(x)
    expected = torch.stack([quantize(s, "bfp<6>") for s in x.unbind(axis)])
    assert torch.equal(found, expected)
    assert not torch.equal(found, quantize(x, "bfp<6>").movedim(axis, 0))


def test_random_bits_differ_by_sample():
    x = torch.full((3, 64), 0.3)
    bits = RandomBits(1, 2, 3)
    found = vmap(lambda s: quantize(s, "fixed<8,2>", "stochastic", random=bits))(x)
    for i, sample in enumerate(found):
        own = RandomBits(1, (2 * FACTOR + i) % 2**64, 3)
        assert torch.equal(sample, quantize(x[i], "fixed<8,2>", "stochastic", random=own))
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("section", ["activation", "operands", "elementwise"])
def test_random_bits_differ_by_sample_of_nested_vmaps(section):
    how = "fixed<8,4>/stochastic"
    model = nn.Sequential(nn.Linear(32, 32), nn.GELU())
    emulate(model, None, Recipe(**{section: {"input": how} if section == "operands" else how}))
    with torch.no_grad():
        found = vmap(vmap(model))(torch.full((3, 3, 32), 0.3)).flatten(0, 1)
    assert len({tuple(sample.tolist()) for sample in found}) == 9


def test_second_derivatives():
    f = lambda x: (quantize(x, "e4m3fn", backward="e5m2") ** 3).sum()  # noqa: E731
    x = torch.tensor([0.3, -1.7], requires_grad=True)
    (first,) = torch.autograd.grad(f(x), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert torch.equal(grad(lambda x: grad(f)(x).sum())(x.detach()), second)


@pytest.mark.parametrize("kind", RECIPES)
@pytest.mark.parametrize("transform", [torch.func.jacfwd, torch.func.hessian])
def test_forward_mode_is_refused(kind, transform):
    model = Model()
    emulate(model, None, RECIPES[kind])
    with pytest.raises(NotImplementedError, match=r"no forward-mode derivative .*jacrev or grad"):
        transform(lambda x: model(x).sum())(torch.randn(1, 4, 4))
    x = torch.ones(1, 1, 4, 4)
    with torch.autograd.forward_ad.dual_level(), pytest.raises(NotImplementedError, match="disa"):
        model(torch.autograd.forward_ad.make_dual(x, x))


@pytest.mark.parametrize("kind", ["blocks", "elementwise"])
@pytest.mark.parametrize("transform", [grad, vmap])
def test_torch_compile_around_a_transform_is_refused(kind, transform):
    """PyTorch gives gradients of zero, without a word, where a convolution is rounded."""
    torch._dynamo.reset()
    model = Model()
    emulate(model, None, RECIPES[kind])
    function = transform(lambda x: model(x).square().sum())
    with pytest.raises(RuntimeError, match=r"cannot trace a transform of torch\.func around"):
        torch.compile(function, backend="aot_eager")(torch.ones(1, 1, 4, 4))


def test_torch_compile_around_a_transform_of_rounded_activations(same):
    torch._dynamo.reset()
    model = Model()
    emulate(model, None, RECIPES["activations"])
    gradient = grad(lambda x: model(x).square().sum())
    x = torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4)
    same(torch.compile(gradient, backend="aot_eager")(x), gradient(x))
