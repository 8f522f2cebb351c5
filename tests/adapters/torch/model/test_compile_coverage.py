"""What a compiled model computes in float is told as it is told of an eager one."""

import copy
import warnings

import pytest
import torch
from qemu_swalp_torch import (
    UncoveredError,
    emulate,
    quantize,
    quantize_elementwise,
    quantize_gemms,
)
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from qemu_swalp.training import Recipe

PRODUCTS = Recipe(operands=dict.fromkeys(("input", "weight", "error"), "e4m3fn"))
ELEMENTWISE = Recipe(elementwise="bf16")
CALLS = {
    "products": lambda model, **options: quantize_gemms(model, PRODUCTS, **options),
    "elementwise": lambda model, **options: quantize_elementwise(model, ELEMENTWISE, **options),
}
X = torch.linspace(-1, 1, 32).reshape(4, 8)


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a @ b

    @staticmethod
    def backward(ctx, error):
        a, b = ctx.saved_tensors
        return error @ b.mT, a.mT @ error


class Part(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Model(nn.Module):
    """One function within a module of a model that has other products and operations."""

    def __init__(self, function):
        super().__init__()
        self.fc, self.part = nn.Linear(8, 8), Part(function)

    def forward(self, x):
        return torch.tanh(self.part(self.fc(x))) + 1


def broken(x):
    torch._dynamo.graph_break()
    return torch.cdist(x, x)


UNCOVERED = {
    "products": {
        "cdist": (lambda x: torch.cdist(x, x), "part: aten._cdist_forward"),
        "checkpointed": (
            lambda x: checkpoint(lambda y: torch.cdist(y, y), x, use_reentrant=False),
            "_cdist_forward",
        ),
        "autograd Function": (lambda x: Product.apply(x, x.mT), "part: .*autograd.Function"),
        "custom operator": (lambda x: torch.ops.qemu_tests.product(x, x), "qemu_tests.product"),
        "beside a break": (broken, "_cdist_forward"),
    },
    "elementwise": {
        "cumsum": (lambda x: x.cumsum(-1), "part: cumsum"),
        "function that is not shown": (lambda x: F.alpha_dropout(x, 0.3, True), "part: mul_"),
        "custom operator": (lambda x: torch.ops.qemu_tests.product(x, x), "qemu_tests.product"),
    },
}


@torch.library.custom_op("qemu_tests::product", mutates_args=())
def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a @ b.mT


@product.register_fake
def _(a, b):
    return a @ b.mT


def compiled(model, case):
    in_pieces = case in ("beside a break", "autograd Function")
    return torch.compile(model, backend="eager", fullgraph=not in_pieces)


@pytest.mark.parametrize(
    ("section", "case"), [(section, case) for section, cases in UNCOVERED.items() for case in cases]
)
def test_what_a_graph_computes_in_float_is_told_by_name(section, case):
    function, words = UNCOVERED[section][case]
    model = Model(function)
    CALLS[section](model)
    error = rf"^the recipe's section '{section}' could not be applied .*{words}.*Exclude them"
    with pytest.raises(UncoveredError, match=error):
        compiled(model, case)(X)


@pytest.mark.parametrize("fullgraph", [True, False])
def test_other_errors_of_a_trace_arrive_as_they_are(fullgraph):
    model = nn.Sequential(nn.Linear(8, 8))
    quantize_gemms(model, PRODUCTS)
    run = torch.compile(torch.func.vmap(model), backend="eager", fullgraph=fullgraph)
    with pytest.raises(RuntimeError, match=r"^torch\.compile cannot trace a transform"):
        run(X)
    torch._dynamo.reset()
    run = torch.compile(lambda x: quantize(x, "e9m9m"), backend="eager", fullgraph=fullgraph)
    with pytest.raises(ValueError, match=r"^unknown format") as caught:
        run(X)
    assert caught.type.__name__ == "ValueError"


@pytest.mark.parametrize(("section", "case"), [("products", "cdist"), ("elementwise", "cumsum")])
@pytest.mark.parametrize("strict", [True, False])
def test_export_tells_it_too(section, case, strict):
    function, words = UNCOVERED[section][case]
    model = Model(function).eval()
    CALLS[section](model)
    with pytest.raises(RuntimeError, match=words):
        torch.export.export(model, (X,), strict=strict)


@pytest.mark.parametrize(("section", "case"), [("products", "cdist"), ("elementwise", "cumsum")])
def test_it_is_warned_of_ignored_or_excluded(section, case):
    function, words = UNCOVERED[section][case]
    model = Model(function)
    CALLS[section](model, uncovered="warn")
    with pytest.warns(UserWarning, match=words):
        compiled(model, case)(X)
    for options in ({"uncovered": "ignore"}, {"exclude": "part"}):
        model = Model(function)
        CALLS[section](model, **options)
        torch._dynamo.reset()
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="the recipe")
            compiled(model, case)(X)


def test_what_is_rounded_is_told_of_by_nobody():
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), Part(lambda x: F.softmax(x @ x.mT, -1)))
    emulate(model, None, Recipe(**PRODUCTS.to_dict(), elementwise="bf16"))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the recipe")
        torch.compile(model, backend="eager", fullgraph=True)(X.clone().requires_grad_())


def test_looking_specializes_no_size():
    model, graphs = Model(lambda x: x @ x.mT), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    quantize_gemms(model, PRODUCTS, attention=False)
    run = torch.compile(model, backend=backend, dynamic=True)
    for rows in (3, 4, 5, 6):
        run(torch.ones(rows, 8))
    assert len(graphs) == 1


FUNCTIONS = {
    "sigmoid": F.sigmoid,
    "tanh": F.tanh,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "in place": lambda x: F.hardswish(x.clone(), inplace=True),
    "module": nn.Hardswish(),
    "weighted loss": lambda x: F.l1_loss(x, X.flip(0), weight=X.abs()),
}


def test_functions_that_torch_compile_hides_from_modes_are_rounded(same):
    found = []
    model = Model(lambda x: torch.stack([function(x) + 0 * x for function in FUNCTIONS.values()]))
    quantize_elementwise(model, ELEMENTWISE)
    for run in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        x = X.clone().requires_grad_()
        y = run(x)
        found.append((y, *torch.autograd.grad(y.sum(), [x, *model.parameters()])))
    for a, b in zip(*found, strict=True):
        same(a, b)


HOOKS = {
    "gradient": lambda p: p.register_hook(multiplied),
    "accumulated": lambda p: p.register_post_accumulate_grad_hook(
        lambda p: setattr(p, "grad", multiplied(p.grad))
    ),
}


def multiplied(g):
    return g @ torch.eye(8)


@pytest.mark.parametrize("when", ["before", "after a step", "on a copy", "excluded"])
@pytest.mark.parametrize("case", HOOKS)
def test_products_of_hooks_on_parameters_are_told(case, when):
    """They run outside of the graph."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
    emulate(model, None, PRODUCTS, exclude="2" if when == "excluded" else ())
    if when == "on a copy":
        model = copy.deepcopy(model)
    run = torch.compile(model, backend="aot_eager", fullgraph=True)
    if when == "after a step":
        run(X).sum().backward()
    hook = HOOKS[case](model[2].weight)
    if when != "excluded":
        words = (
            r"section 'products' .* in the backward: 2: aten.mm of the hook .*(multiplied|lambda)"
        )
        for _ in range(2):
            with pytest.raises(UncoveredError, match=words):
                run(X).sum().backward()
        hook.remove()
    run(X).sum().backward()
