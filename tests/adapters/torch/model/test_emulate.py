"""One call for a whole recipe: what it applies, what it refuses, how it ends and resumes."""

import copy
import inspect

import pytest
import torch
from qemu_swalp_torch import UncoveredError, emulate, quantize_gemms
from torch import nn
from torch.nn import functional as F

from qemu_swalp.training import Recipe

FULL = Recipe(
    weight="bfp<8,axis=0>/stochastic",
    gradient="bfp<8,axis=0>/stochastic",
    momentum="bfp<8,axis=0>/stochastic",
    activation="float<5,4>/stochastic",
    error="float<5,4>/stochastic",
    operands={"input": "mxfp8_e4m3/nearest_even", "error": "mxfp8_e5m2/stochastic"},
    sums="bf16/nearest_even",
    elementwise="bf16/stochastic",
    average="bfp<8,axis=0>/nearest_even",
)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 2))


def sgd(model):
    return torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)


def train(model, optimizer, steps, start=0):
    for step in range(start, start + steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        model(torch.randn(5, 4)).square().sum().backward()
        optimizer.step()


def test_every_section_is_applied_and_ends():
    model = net()
    plain, optimizer = copy.deepcopy(model), sgd(model)
    keys = list(model.state_dict())
    with emulate(model, optimizer, FULL, average={"start": 1}) as handle:
        assert list(handle.handles) == ["activations", "products", "elementwise"]
        assert list(model.state_dict()) == keys
        train(model, optimizer, 3)
        assert handle.averager.n_averaged == 2
        assert "qemu_step" in optimizer.param_groups[0]
        x = torch.randn(5, 4)
        with handle.disabled():
            plain.load_state_dict(model.state_dict())
            assert torch.equal(model(x), plain(x))
        assert not torch.equal(model(x), plain(x))
    assert torch.equal(model(x), plain(x))
    assert "qemu_step" not in optimizer.param_groups[0]
    train(model, optimizer, 1)
    assert handle.averager.n_averaged == 2


def test_the_table_tells_places_roles_formats_runs_and_shares():
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    recipe = Recipe("bf16/stochastic", operands={"input": "e4m3fn", "weight": "e5m2/stochastic"})
    handle = emulate(model, sgd(model), recipe, exclude="2")
    model(torch.ones(1, 64))
    model(torch.ones(1, 64))
    lines = [line.split() for line in str(handle).splitlines()]
    assert lines[0] == ["place", "role", "format", "rounding", "runs", "FLOPs"]
    assert lines[2:] == [
        ["0", "forward.input,", "wgrad.input", "e4m3fn", "nearest_even", "2", "86.5", "%"],
        ["0", "forward.weight,", "dgrad.weight", "e5m2", "stochastic_a", "2"],
        ["optimizer", "weight", "bf16", "stochastic_a"],
        ["2", "excluded:", "aten.addmm", "float", "13.5", "%"],
    ]


def test_excluded_modules_keep_their_parameters_in_float():
    model = net()
    before = copy.deepcopy(model.state_dict())
    handle = emulate(model, sgd(model), Recipe("fixed<4,2>/nearest_even"), exclude=("3", nn.GELU))
    after = model.state_dict()
    assert torch.equal(after["3.weight"], before["3.weight"])
    assert not torch.equal(after["0.weight"], before["0.weight"])
    handle.remove()


def test_a_resumed_run_has_the_bits_of_an_unbroken_one(same):
    one = net()
    optimizer = sgd(one)
    handle = emulate(one, optimizer, FULL, average={"start": 1})
    train(one, optimizer, 2)
    saved = copy.deepcopy([one.state_dict(), optimizer.state_dict(), handle.state_dict()])
    train(one, optimizer, 2, 2)
    other = net()
    resumed = sgd(other)
    again = emulate(other, resumed, FULL, average={"start": 1})
    for part, state in zip((other, resumed, again), saved, strict=True):
        part.load_state_dict(state)
    train(other, resumed, 2, 2)
    same(one.state_dict(), other.state_dict())
    same(handle.averager.average(), again.averager.average())


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx, error):
        x, weight = ctx.saved_tensors
        return error @ weight.t(), x.t() @ error


class Custom(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.fc = nn.Parameter(torch.randn(4, 4)), nn.Linear(4, 4)

    def forward(self, x):
        return Product.apply(self.fc(x), self.weight)


class Opaque(nn.Module):
    def forward(self, x):
        return torch.cdist(x, x, compute_mode="use_mm_for_euclid_dist")


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (Custom, r"the model itself: autograd.Function Product, 50 % of the FLOPs"),
        (
            lambda: nn.Sequential(nn.Linear(4, 4), torch.jit.script(nn.Linear(4, 4))),
            r"1: aten.addmm, 50 % of the FLOPs",
        ),
        (lambda: nn.Sequential(nn.Linear(4, 4), Opaque()), r"1: aten\.\w+"),
    ],
    ids=["custom Function", "scripted", "kernel"],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_what_cannot_be_rounded_is_named_at_the_first_forward(build, words):
    x = torch.randn(3, 4)
    model = build()
    handle = emulate(model, None, Recipe(operands={"input": "e4m3fn"}))
    for _ in range(2):
        with pytest.raises(UncoveredError, match=words) as error:
            model(x)
    for remedy in ("Exclude them by name", "register_gemms", 'uncovered="warn"'):
        assert remedy in str(error.value)
    handle.remove()
    handle = emulate(model, None, Recipe(operands={"input": "e4m3fn"}), uncovered="warn")
    with pytest.warns(UserWarning, match=words):
        model(x)
    assert "uncovered: " in str(handle)
    model(x)
    handle.remove()
    emulate(model, None, Recipe(operands={"input": "e4m3fn"}), uncovered="ignore")
    model(x)


def test_a_scripted_module_can_be_excluded():
    model = nn.Sequential(nn.Linear(4, 4), torch.jit.script(nn.Linear(4, 4)))
    handle = emulate(model, None, Recipe(operands={"input": "e4m3fn"}), exclude="1")
    model(torch.randn(3, 4))
    assert "excluded: aten.addmm" in str(handle)
    handle.remove()
    model(torch.randn(3, 4))


def test_the_table_tells_what_autograd_sums_in_float():
    for rules, told in (("bf16", True), ({"forward.add": "bf16"}, False)):
        handle = emulate(nn.Sequential(nn.LayerNorm(4)), None, Recipe(elementwise=rules))
        assert ("sums of gradients of what is used twice" in str(handle)) == told


def test_errors_change_nothing():
    model = net()
    keys = [name for name, m in model.named_modules() if "forward" in m.__dict__]
    for call, kind, words in (
        (lambda: emulate(model, None, FULL), ValueError, r"\(weight, gradient, momentum\); pass"),
        (lambda: emulate(model, sgd(model), "mxpf8"), ValueError, "got 'mxpf8'"),
        (lambda: emulate(model, None, Recipe()), ValueError, "the recipe is empty"),
        (lambda: emulate(3, None, "mxfp8"), TypeError, "must be a torch.nn.Module"),
        (lambda: emulate(model, None, "mxfp8", uncovered="no"), ValueError, "uncovered must be"),
        (lambda: emulate(model, None, "mxfp8", exclude="9"), ValueError, "9"),
        (lambda: emulate(model, sgd(model), Recipe("bf16"), exclude="9"), ValueError, "9"),
        (lambda: emulate(3, sgd(model), Recipe("bf16")), TypeError, "must be a torch.nn.Module"),
        (lambda: emulate(model, None, "mxfp8", average=True), ValueError, "pass the optimizer"),
        (lambda: emulate(model, sgd(net()), FULL, average={"cycle": 0}), ValueError, "cycle"),
        (lambda: emulate(model, sgd(model), FULL, average=100), TypeError, "average must be True"),
    ):
        with pytest.raises(kind, match=words):
            call()
        assert [name for name, m in model.named_modules() if "forward" in m.__dict__] == keys
        assert not any(m._forward_hooks for m in model.modules())


class Helper(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        return multiplied(x, self.weight)


def multiplied(x, weight):
    return x @ weight


class Nothing(nn.Module):
    def forward(self, x):
        return unchanged(x)


def unchanged(x):
    return x


def test_products_in_helpers_are_found_in_the_first_forward():
    model = Helper()
    handle = quantize_gemms(model, "mxfp8")
    assert handle.names == []
    model(torch.randn(2, 4))
    assert handle.names == [""]
    model = Nothing()
    quantize_gemms(model, "mxfp8")
    with pytest.raises(ValueError, match="nothing to round: the forward of the model made no"):
        model(torch.randn(2, 4))


def test_which_operand_is_the_weight(same):
    """A parameter, or what was computed from parameters alone; of two such the second."""

    class Derived(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter((torch.arange(16.0) / 8 - 1).reshape(4, 4))

        def forward(self, x, which):
            if which == "left":
                return self.a.t().float() @ x
            if which == "computed":
                return x @ (self.a * 2).softmax(-1)
            if which == "both":
                return self.a @ self.a.t()
            return x @ x

    model = Derived()
    quantize_gemms(model, Recipe(operands={"weight": "fixed<4,1>"}), attention=True)
    x = (torch.arange(16.0) / 4 - 2).reshape(4, 4)  # exact sums: BLAS has its order of terms

    def q(w):
        return (w * 2).round().clamp(-8, 7) / 2

    a = model.a.detach()
    same(model(x, "left").detach(), F.linear(x.t(), q(a.t())).t())
    same(model(x, "computed").detach(), x @ q((a * 2).softmax(-1)))
    same(model(x, "both").detach(), a @ q(a.t()))
    same(model(x, "neither").detach(), x @ x)


def test_frameworks_see_the_signature_of_the_forward():
    model = nn.Linear(2, 2)
    quantize_gemms(model, "mxfp8")
    assert list(inspect.signature(model.forward).parameters) == ["input"]


class Functional(nn.Module):
    """Products and arithmetic in code that nobody registered."""

    def __init__(self):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(8, 8) / 3), nn.Parameter(torch.zeros(8))
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x):
        y = torch.addmm(self.b, x.flatten(0, 1), self.w).unflatten(0, x.shape[:2])
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale
        q = torch.einsum("btk,kn->btn", y, self.w.t())
        y = x + F.scaled_dot_product_attention(q, y, F.softplus(y) - y / 2, is_causal=True)
        return F.mse_loss(F.linear(y, self.w), x, reduction="none") + (y @ self.w) ** 3


@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
def test_functions_compiled_and_recomputed_have_the_same_bits(same_every_way, rounding):
    recipe = Recipe(
        operands=dict.fromkeys(("input", "weight", "error"), f"mxfp8_e4m3/{rounding}"),
        elementwise=f"bf16/{rounding}",
    )
    torch.manual_seed(0)
    model, x = Functional(), torch.randn(2, 5, 8)
    same_every_way(model, lambda m: emulate(m, None, recipe, seed=3), x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (1 - x) / (2 / x) ** 3,
        lambda x: (2**x).mul_(3.1).add_(x) ** 1.5,
        lambda x: (x - x.mean(0)) / x.std(0),
        lambda x: F.cross_entropy(x, torch.tensor([0, 1, 2])) * x.logsumexp(1),
        lambda x: F.avg_pool1d(F.elu(x)[None], 2, padding=1),
        lambda x: torch.addcmul(x, x, x + 1, value=0.3).norm(dim=-1),
        nn.Hardswish(),
    ],
)
def test_arithmetic_compiled_has_the_same_bits(same, function):
    class Arithmetic(nn.Module):
        def __init__(self):
            super().__init__()
            self.function = function

        def forward(self, x):
            return self.function(x)

    torch._dynamo.reset()
    model, x = Arithmetic(), torch.rand(3, 4) + 0.1
    plain = model(x)
    emulate(model, None, Recipe(elementwise="bf16"))
    found = model(x)
    assert not torch.equal(found, plain)
    same(torch.compile(model, fullgraph=True, backend="aot_eager")(x), found)


def test_outputs_of_ones_own_modules_are_activations(on_grid):
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 4))

        def forward(self, x):
            return x @ self.w

    model = nn.Sequential(Scale(), nn.Flatten(), Nothing())
    handle = emulate(model, None, Recipe(activation="e4m3fn/nearest_even"))
    assert handle.handles["activations"].names == ["0"]
    assert on_grid(model(torch.randn(3, 4)), "e4m3fn")


def test_the_state_of_another_emulation_is_refused():
    recipe = Recipe(operands={"input": "e4m3fn/stochastic"})
    handle = emulate(net(), None, recipe)
    state = handle.state_dict()
    with pytest.raises(ValueError, match=r"the state has the parts \[\], and this emulation"):
        handle.load_state_dict({})
    with pytest.raises(ValueError, match=r"the state is of other modules: \['3'\]"):
        handle.load_state_dict({"products": {"0": state["products"]["0"]}})
    assert handle.state_dict() == state
