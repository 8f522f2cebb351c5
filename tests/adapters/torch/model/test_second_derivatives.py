"""Products of derivatives of higher order are products of the same three kinds, rounded alike."""

import warnings

import pytest
import torch
from qemu_swalp_torch import UncoveredError, emulate, quantize_gemms
from torch import nn
from torch.func import functional_call, grad, jacrev, vjp, vmap
from torch.nn import functional as F

import qemu_swalp as q
from qemu_swalp import RandomBits, stream_id
from qemu_swalp.training import Recipe
from tests.helpers.dispatched import ALL, Watch
from tests.helpers.torch_functions import Copied

X = torch.linspace(-1, 1, 48).reshape(6, 8)


class Net(nn.Module):
    """A convolution, a transposed one, a layer, and a product of two activations."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(1, 2, 3, padding=1)
        self.back = nn.ConvTranspose1d(2, 1, 3, padding=1)
        self.fc, self.out = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        y = torch.tanh(self.back(torch.tanh(self.conv(x[:, None])))[:, 0])
        y = torch.tanh(self.fc(y)) @ torch.tanh(x.mT @ y)
        return torch.tanh(self.out(y))


def gradient_penalty(model, x):
    x = x.clone().requires_grad_()
    y = model(x).sum()
    (slope,) = torch.autograd.grad(y, x, create_graph=True)
    (y + (slope.norm(dim=1) - 1).square().mean()).backward()


def hessian_vector_product(model, x):
    parameters = [*model.parameters()]
    loss = model(x).square().mean()
    found = torch.autograd.grad(loss, parameters, create_graph=True)
    product = sum((g * p.detach()).sum() for g, p in zip(found, parameters, strict=True))
    torch.autograd.grad(product, parameters, retain_graph=True)
    product.backward()


def third_derivative(model, x):
    x = x.clone().requires_grad_()
    found = model(x).sum()
    for _ in range(2):
        (found,) = torch.autograd.grad(found.square().sum(), x, create_graph=True)
    found.sum().backward()


def inner_loop(model, x):
    """MAML: a step of learning, through which the loss after it is differentiated."""
    parameters = dict(model.named_parameters())
    loss = functional_call(model, parameters, (x,)).square().mean()
    found = torch.autograd.grad(loss, [*parameters.values()], create_graph=True)
    stepped = {name: p - 0.5 * g for (name, p), g in zip(parameters.items(), found, strict=True)}
    functional_call(model, stepped, (x,)).square().mean().backward()


def of_transforms(model, x):
    parameters = dict(model.named_parameters())
    loss = lambda p: functional_call(model, p, (x,)).square().mean()  # noqa: E731
    vjp(grad(loss), parameters)[1](parameters)
    grad(lambda p: sum(g.square().sum() for g in grad(loss)(p).values()))(parameters)


USES = (gradient_penalty, hessian_vector_product, third_derivative, inner_loop, of_transforms)


@pytest.mark.parametrize("use", USES)
def test_the_operands_of_every_product_lie_on_the_grid(use):
    model = Net()
    emulate(model, None, ALL, attention=True)
    with Watch() as watch:
        use(model, X)
    assert watch.seen > 20
    assert not watch.bad


class Within(nn.Module):
    """A derivative within the forward of a module, as of energies or equilibria."""

    def __init__(self, derivative):
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.out, self.derivative = nn.Linear(8, 8), nn.Linear(8, 8), derivative

    def energy(self, x):
        return torch.tanh(self.out(torch.tanh(self.fc(x)))).square()

    def forward(self, x):
        return self.derivative(self.energy, x)


def by_autograd(f, x):
    x = x if x.requires_grad else x.clone().requires_grad_()
    return torch.autograd.grad(f(x).sum(), x, create_graph=True)[0]


WITHIN = {
    "autograd": by_autograd,
    "grad": lambda f, x: grad(lambda x: f(x).sum())(x),
    "vjp": lambda f, x: vjp(f, x)[1](torch.ones_like(x))[0],
    "jacrev": lambda f, x: vmap(jacrev(f))(x).sum(1),
    "twice": lambda f, x: grad(lambda x: grad(lambda x: f(x).sum())(x).square().sum())(x),
}


@pytest.mark.parametrize("name", WITHIN)
def test_within_a_forward_too(name):
    model = Within(WITHIN[name])
    emulate(model, None, ALL)
    with Watch() as watch:
        model(X[:2]).square().sum().backward()
    assert watch.seen > 10
    assert not watch.bad


@pytest.mark.parametrize("within", [False, True])
def test_of_compiled_graphs_pytorch_refuses_them(within):
    model = Within(by_autograd) if within else Net()
    emulate(model, None, ALL)
    model(X.clone().requires_grad_()).sum().backward()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager")
    use = (lambda model, x: model(x).square().sum().backward()) if within else gradient_penalty
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        use(compiled, X.clone().requires_grad_())


# The three products by hand, of rows: what stands in the place of which operand.

FORMATS = {
    "forward.input": "bfp<5,axis=-1>",
    "forward.weight": "bfp<6,axis=-1>",
    "dgrad.error": "bfp<7,axis=-1>",
    "dgrad.weight": "bfp<4,axis=-1>",
    "wgrad.error": "bfp<3,axis=-1>",
    "wgrad.input": "bfp<8,axis=-1>",
}


def by_hand(rounding, seed):
    """round(operand of a product, tensor, path): as the first module at its first call."""

    def round_(name, x, path=""):
        bits = RandomBits(seed, stream_id(name + path, 0), 0)
        return q.quantize(x.contiguous(), FORMATS[name], rounding, random=bits)

    return round_


@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
def test_each_operand_is_rounded_by_its_place_and_path(same, rounding):
    """Clause RNG-7: of second and third derivatives, with all formats different."""
    layer = nn.Linear(8, 4, bias=False)
    recipe = {name: f"{format}/{rounding}" for name, format in FORMATS.items()}
    quantize_gemms(layer, Recipe(operands=recipe), seed=5)
    torch.manual_seed(0)
    x, w = torch.randn(6, 8, requires_grad=True), layer.weight
    e, u, v, s = (torch.randn(*n, requires_grad=True) for n in ((6, 4), (6, 8), (4, 8), (6, 4)))
    r = by_hand(rounding, 5)

    def forward(x, w, of_x="", of_w=""):
        return r("forward.input", x, of_x) @ r("forward.weight", w, of_w).T

    def dgrad(e, w, of_e="", of_w=""):
        return r("dgrad.error", e, of_e) @ r("dgrad.weight", w.T, of_w).T

    def wgrad(e, x, of_e="", of_x=""):
        return r("wgrad.error", e.T, of_e) @ r("wgrad.input", x.T, of_x).T

    with torch.no_grad():
        plain = [t.detach() for t in (x, w, e, u, v, s)]
    y = layer(x)
    dx, dw = torch.autograd.grad(y, (x, w), e, create_graph=True)
    x_, w_, e_, u_, v_, s_ = plain
    same(y, forward(x_, w_))
    same(dx, dgrad(e_, w_))
    same(dw, wgrad(e_, x_))
    de, ddw = torch.autograd.grad(dx, (e, w), u, create_graph=True)
    same(de, forward(u_, w_, "/dgrad"))
    same(ddw, wgrad(e_, u_, "", "/dgrad"))
    de, ddx = torch.autograd.grad(dw, (e, x), v, create_graph=True)
    same(de, forward(x_, v_, "", "/wgrad"))
    same(ddx, dgrad(e_, v_, "", "/wgrad"))
    de = torch.autograd.grad(dx, e, u, create_graph=True)[0]
    du, dddw = torch.autograd.grad(de, (u, w), s)
    same(du, dgrad(s_, w_, "/dgrad/forward"))
    same(dddw, wgrad(s_, u_, "/dgrad/forward", "/dgrad"))


def test_sums_have_random_bits_of_their_own(same):
    layer, sums = nn.Linear(8, 4, bias=False), "float<8,3>/stochastic; chunk=4"
    names = ("forward.sum", "dgrad.sum", "wgrad.sum")
    quantize_gemms(layer, Recipe(sums=dict.fromkeys(names, sums)), seed=5)
    x, e, u = (torch.rand(6, n, requires_grad=True) for n in (8, 4, 8))
    (dx,) = torch.autograd.grad(layer(x), x, e, create_graph=True)
    (de,) = torch.autograd.grad(dx, e, u)
    bits = RandomBits(5, stream_id("forward.sum/dgrad", 0), 0)
    same(de, q.matmul(u.detach(), layer.weight.detach().T, q.Accumulation.parse(sums), random=bits))


def test_other_products_go_by_the_same_rules(same):
    """What stands in the place of which operand is the same in matrices and convolutions: a layer
    of rows as a product of matrices, and as a convolution of one pixel.
    """
    recipe = {name: f"{format}/stochastic" for name, format in FORMATS.items()}
    torch.manual_seed(0)
    x, w, u, v = torch.randn(6, 8), torch.randn(4, 8), torch.randn(6, 8), torch.randn(4, 8)
    results = []
    for function in (
        lambda x, w: F.linear(x, w),
        lambda x, w: torch.matmul(x[None], w.mT[None])[0],
        lambda x, w: F.conv1d(x[..., None], w[..., None])[..., 0],
    ):
        model = Function(function, w)
        quantize_gemms(model, Recipe(operands=recipe), seed=5)
        given = x.clone().requires_grad_()
        y = model(given)
        e = torch.linspace(-1, 1, 24).reshape(6, 4).requires_grad_()
        dx, dw = torch.autograd.grad(y, (given, model.weight), e, create_graph=True)
        by_dx = torch.autograd.grad(dx, (e, model.weight), u, retain_graph=True)
        results.append([*by_dx, *torch.autograd.grad(dw, (e, given), v)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


class Function(nn.Module):
    def __init__(self, function, weight):
        super().__init__()
        self.function, self.weight = function, nn.Parameter(weight)

    def forward(self, x):
        return self.function(x, self.weight)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(operands={"input": "float<11,40>"}),
        Recipe(operands={"input": "float<11,40>"}, transforms="hadamard<8,signs=random>"),
        Recipe(operands={"input": "float<11,40>"}, factors={"input": 4.0}),
        Recipe(
            operands={"forward.input": "float<11,40>", "forward.weight": "float<11,40>"},
            transforms={"forward": "hadamard<8,signs=random>"},
            backward="rounded",
        ),
        Recipe(
            operands={"input": "float<11,40>"},
            sums=dict.fromkeys(("forward.sum", "dgrad.sum", "wgrad.sum"), "float<11,40>; chunk=8"),
        ),
    ],
)
@pytest.mark.parametrize("use", [gradient_penalty, third_derivative])
def test_in_formats_of_many_bits_they_are_those_of_floats(recipe, use):
    """With every transform, factor and sum."""
    results = []
    for rounded in (False, True):
        model = Net().double()
        if rounded:
            quantize_gemms(model, recipe, attention=True)
        use(model, X.double())
        results.append([p.grad for p in model.parameters()])
    for plain, rounded in zip(*results, strict=True):
        torch.testing.assert_close(plain, rounded, rtol=1e-6, atol=1e-6)


class Later(Copied):
    """A Function whose backward is exact, and whose second derivative multiplies matrices."""

    @staticmethod
    def backward(ctx, g):
        return Multiplying.apply(g)


class Multiplying(Copied):
    @staticmethod
    def backward(ctx, g):
        return g @ torch.eye(8)


def hooked(x):
    """A product in a hook on a second derivative."""
    x = x + 0
    if x.requires_grad:
        x.register_hook(
            lambda g: (
                g.register_hook(lambda h: h @ torch.eye(8)) and None if g.requires_grad else None
            )
        )
    return x


FOREIGN = {
    "Function": (Later.apply, "aten.mm of autograd.Function Multiplying"),
    "hook": (hooked, "aten.mm of the hook hooked.*lambda"),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("uncovered", ["raise", "warn", "ignore"])
def test_products_of_others_are_told(name, uncovered):
    function, words = FOREIGN[name]
    part = Function(lambda x, _: torch.tanh(function(torch.tanh(x))), torch.zeros(1))
    model = nn.Sequential(nn.Linear(8, 8), part, nn.Linear(8, 2))
    quantize_gemms(model, ALL, uncovered=uncovered)
    words = rf"backward: 1: {words}.* % of the FLOPs"
    if uncovered == "raise":
        with pytest.raises(UncoveredError, match=words):
            gradient_penalty(model, X)
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gradient_penalty(model, X)
    assert len(caught) == (uncovered == "warn")
    if caught:
        with pytest.warns(UserWarning, match=words):
            warnings.warn_explicit(caught[0].message, UserWarning, "", 0)


def test_what_a_loss_multiplies_is_none_of_the_models():
    """Before, between and after the derivatives of the model, which is watched."""
    model, plain = nn.Sequential(nn.Linear(8, 8), nn.Tanh()), nn.Linear(8, 8)
    quantize_gemms(model, ALL)
    x = X.clone().requires_grad_()
    y = model(plain(x))
    other = plain(x)
    (slope,) = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)
    (torch.tanh(slope) @ torch.eye(8) * other).sum().backward()


def test_delayed_scales_are_of_their_own():
    """Each tensor of a higher derivative has a history of its own, which is saved."""
    recipe = Recipe(
        operands=dict.fromkeys(("input", "weight", "error"), DELAYED), scaling="delayed<4>"
    )
    layers = [nn.Linear(8, 8, bias=False) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    first, second = (quantize_gemms(layer, recipe) for layer in layers)
    for _ in range(2):
        gradient_penalty(layers[0], X)
    state = first.state_dict()
    assert set(state[""]["scales"]) == {"input", "weight", "error", "input/dgrad"}
    amax = state[""]["scales"]["input/dgrad"]["history"]
    assert len(amax) == 2
    assert amax != state[""]["scales"]["input"]["history"]
    second.load_state_dict(state)
    for layer in layers:
        layer.zero_grad()
        gradient_penalty(layer, X)
    assert torch.equal(*(layer.weight.grad for layer in layers))


DELAYED = "block<e4m3fn,scale=float<8,23>>"


def test_infinities_of_float16_are_kept_for_a_scaler():
    """As those of errors are, where the format saturates."""
    layer = nn.Linear(8, 4, bias=False).half()
    quantize_gemms(layer, Recipe(operands={"input": "e4m3fn"}))
    x = torch.ones(2, 8, dtype=torch.float16, requires_grad=True)
    e = torch.ones(2, 4, dtype=torch.float16, requires_grad=True)
    (dx,) = torch.autograd.grad(layer(x), x, e, create_graph=True)
    (de,) = torch.autograd.grad(dx, e, torch.full_like(dx, torch.inf))
    assert not de.isfinite().any()
