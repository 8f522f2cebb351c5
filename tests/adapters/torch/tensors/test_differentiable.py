"""Gradients through quantized steps: each rounding passes its gradient on, as in a computation
written out by hand.
"""

import pytest
import torch
from qemu_swalp_torch import SGD, quantize_optimizer
from torch import nn

from qemu_swalp import RandomBits, stream_id
from qemu_swalp.training import Recipe

SEED, STEPS = 7, 3
Q = {"weight": "fixed<8,6>", "gradient": "bfp<5,axis=0>", "momentum": "float<5,3>"}
RECIPES = {
    "all roles": Recipe(**Q),
    "nearest": Recipe(**{role: f"{f}/nearest_even" for role, f in Q.items()}),
    "accumulator": Recipe(**Q, accumulator="fixed<12,10>/stochastic"),
    "weights alone": Recipe(weight="fixed<8,6>/stochastic"),
}
KINDS = {
    "ours": lambda p, recipe, **options: SGD(
        p, **options, recipe=recipe, seed=SEED, differentiable=True
    ),
    "hooks": lambda p, recipe, **options: quantize_optimizer(
        torch.optim.SGD(p, **options, differentiable=True, foreach=False), recipe, seed=SEED
    ),
}


def loss_of(w):
    """Not quadratic, so that gradients depend on the weights that they are of."""
    return (w.sin() * torch.linspace(-1, 2, w.numel()).reshape(w.shape)).sum() + w.pow(3).sum()


def straight_through(recipe, role, x, step, as_role=None):
    quantizer = recipe.quantizer(role)
    if quantizer is None:
        return x
    found = quantizer(x.detach().numpy(), RandomBits(SEED, stream_id(as_role or role, 0), step))

    class Through(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return torch.as_tensor(found)

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    return Through.apply(x)


def by_hand(kind, recipe, w, lr, momentum=0, nesterov=False, weight_decay=0):
    """torch.optim.SGD decays the accumulator, where ours decays the weight, and detaches the first
    velocity.
    """

    def q(role, x, step):
        return straight_through(recipe, role, x, step)

    if kind == "hooks":
        w = straight_through(recipe, "weight", w, 0, "initial")
    a, v = w, None
    for step in range(STEPS):
        (g,) = torch.autograd.grad(loss_of(w.clone()), w, create_graph=True)
        g = q("gradient", g, step)
        start = w if recipe.accumulator is None or not step else a
        if weight_decay:
            g = g + weight_decay * (start if kind == "hooks" else w)
        u = g
        if momentum:
            first = g.detach() if kind == "hooks" else g
            v = first if v is None else momentum * v + g
            u = g + momentum * v if nesterov else v
            v = q("momentum", v, step)
        a = q("accumulator", start - lr * u, step)
        w = q("weight", a, step)
    return w


def by_optimizer(kind, recipe, w, lr, **options):
    p = w.clone()
    optimizer = KINDS[kind]([p], recipe, lr=lr, **options)
    for _ in range(STEPS):
        (p.grad,) = torch.autograd.grad(loss_of(p.clone()), p, create_graph=True)
        optimizer.step()
    return p, optimizer


def inputs():
    torch.manual_seed(2)
    return (torch.randn(3, 4) / 2).requires_grad_(), torch.tensor(0.125, requires_grad=True)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.5},
        {"momentum": 0.5, "nesterov": True},
        {"momentum": 0.5, "weight_decay": 0.25},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", KINDS)
def test_of_learning_rate_and_initial_weights(same, kind, recipe, options):
    """Powers of two make PyTorch's contractions exact."""
    recipe = RECIPES[recipe]
    if (
        kind == "hooks" and recipe.momentum is None
    ):  # torch.optim.SGD writes over the velocity that the graph needs
        options = {**options, "nesterov": bool(options)}
    w, lr = inputs()
    found, optimizer = by_optimizer(kind, recipe, w, lr, **options)
    expected = by_hand(kind, recipe, w, lr, **options)
    same(found, expected)
    assert optimizer.param_groups[0]["qemu_step"] == STEPS
    loss = [loss_of(x) for x in (found, expected)]
    for ours, theirs in zip(*(torch.autograd.grad(one, (w, lr)) for one in loss), strict=True):
        same(ours, theirs)


def test_the_graph_is_that_of_pytorch_where_nothing_is_rounded(same):
    w, lr = inputs()
    results = []
    for make in (
        lambda p: torch.optim.SGD(p, lr, differentiable=True),
        lambda p: quantize_optimizer(
            torch.optim.SGD(p, lr, differentiable=True), Recipe(weight="float<8,23>/nearest_even")
        ),
    ):
        p = w.clone()
        optimizer = make([p])
        (p.grad,) = torch.autograd.grad(loss_of(p.clone()), p, create_graph=True)
        optimizer.step()
        results.append([p.detach(), *torch.autograd.grad(loss_of(p), (w, lr))])
    for ours, theirs in zip(*results, strict=True):
        same(ours, theirs)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p, 0.125, differentiable=True),
        lambda p: torch.optim.RMSprop(p, 0.125, differentiable=True),
        lambda p: torch.optim.Adagrad(p, 0.125, differentiable=True),
    ],
    ids=["Adam", "RMSprop", "Adagrad"],
)
def test_any_optimizer_that_is_differentiable(make, on_grid):
    """The gradient through the step is that of the unquantized one, taken where roundings put its
    numbers.
    """
    recipe = Recipe(
        weight="fixed<8,6>/stochastic",
        gradient="float<8,7>/stochastic",
        momentum="float<8,7>/stochastic",
        state=dict.fromkeys(("exp_avg_sq", "square_avg", "sum"), "float<8,7>/stochastic"),
    )
    w, _ = inputs()
    p = w.clone()
    optimizer = quantize_optimizer(make([p]), recipe, seed=SEED)
    for _ in range(2):
        (p.grad,) = torch.autograd.grad(loss_of(p.clone()), p, create_graph=True)
        optimizer.step()
    assert on_grid(p, recipe.weight)
    assert all(on_grid(s, "float<8,7>") for key, s in optimizer.state[p].items() if key != "step")
    (gradient,) = torch.autograd.grad(p.square().sum(), w)
    assert gradient.isfinite().all()
    assert gradient.any()


def test_meta_learning_finds_a_better_rate():
    """A small network, unrolled, learns the learning rate of its own quantized training."""
    torch.manual_seed(0)
    model, x = nn.Linear(4, 1, bias=False), torch.randn(32, 4)
    y, log_rate = (
        x @ torch.tensor([[1.0], [-1.0], [0.5], [0.0]]),
        torch.tensor(-4.0, requires_grad=True),
    )
    losses = []
    meta = torch.optim.Adam([log_rate], 0.3)
    for _ in range(10):
        p = model.weight.detach().clone().requires_grad_() + 0
        inner = SGD(
            [p], log_rate.exp(), recipe=RECIPES["all roles"], seed=SEED, differentiable=True
        )
        for _ in range(5):
            loss = (
                (torch.func.functional_call(model, {"weight": p.clone()}, (x,)) - y).square().mean()
            )
            (p.grad,) = torch.autograd.grad(loss, p, create_graph=True)
            inner.step()
        outer = (torch.func.functional_call(model, {"weight": p.clone()}, (x,)) - y).square().mean()
        meta.zero_grad()
        outer.backward()
        meta.step()
        losses.append(outer.item())
    assert losses[-1] < losses[0] / 4


def test_a_leaf_is_refused_as_pytorch_refuses_it():
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    with pytest.raises(
        RuntimeError,
        match="a leaf Variable that requires grad is being used in an in-place operation",
    ):
        SGD([p], differentiable=True).step()
