"""Our SGD against the core on NumPy, and against torch.optim.SGD."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from qemu_swalp_torch import SGD, quantize_optimizer

from qemu_swalp.interop import torch as tensors
from qemu_swalp.kernels.cpu import CPU
from qemu_swalp.training import SGD as CoreSGD, Recipe, swalp

FORMATS = st.sampled_from(
    [
        None,
        "fixed<8,5>",
        "e4m3fn/nearest_even",
        "bfp<8,axis=0>",
        "bfp<6,range=twos>",
        "bf16/stochastic_b<8>",
        "float<8,20>",
    ]
)
SHAPES = st.sampled_from([(3,), (4, 5), (2, 3, 2), (1,), (0, 3)])


@st.composite
def hypers(draw):
    rate = st.sampled_from([0.0, 0.1, 0.125, 1e-3, 0.9])
    momentum = draw(rate)
    nesterov = bool(momentum) and draw(st.booleans())
    return {
        "momentum": momentum,
        "dampening": 0.0 if nesterov else draw(rate),
        "weight_decay": draw(rate),
        "nesterov": nesterov,
        "maximize": draw(st.booleans()),
    }


@pytest.mark.parametrize(
    "elements", [tensors.HOST_ELEMENTS, -1], ids=["as NumPy views", "as tensors"]
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    hyper=hypers(),
    lr=st.sampled_from([0.1, 1e-3, 1.0]),
    formats=st.tuples(*[FORMATS] * 4),
    shapes=st.lists(SHAPES, min_size=1, max_size=3),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 2**64 - 1),
)
def test_equals_the_core_on_numpy_bit_for_bit(
    same, monkeypatch, elements, hyper, lr, formats, shapes, dtype, seed
):
    monkeypatch.setattr(tensors, "HOST_ELEMENTS", elements)
    weight, gradient, momentum, accumulator = formats
    recipe = Recipe(weight=weight, gradient=gradient, momentum=momentum, accumulator=accumulator)
    rng = np.random.default_rng(seed % 2**32)
    arrays = {f"{i}": rng.standard_normal(shape).astype(dtype) for i, shape in enumerate(shapes)}
    parameters = [torch.nn.Parameter(torch.tensor(a)) for a in arrays.values()]
    ours = SGD(parameters, lr, **hyper, recipe=recipe, seed=seed)
    core = CoreSGD(lr, **hyper, recipe=recipe, seed=seed)
    state = core.init(arrays)
    for _ in range(3):
        gradients = {name: rng.standard_normal(a.shape).astype(dtype) for name, a in arrays.items()}
        for p, g in zip(parameters, gradients.values(), strict=True):
            p.grad = torch.tensor(g)
        ours.step()
        arrays, state = core.update(arrays, gradients, state)
    for p, (name, a) in zip(parameters, arrays.items(), strict=True):
        same(p, a)
        velocity, kept = state.slots[name]
        for key, value in (("momentum_buffer", velocity), ("qemu_accumulator", kept)):
            if value is None:
                assert key not in ours.state[p]
            else:
                same(ours.state[p][key], value)


def test_takes_the_arguments_of_torch_optim_sgd():
    import inspect

    theirs, ours = (inspect.signature(kind).parameters for kind in (torch.optim.SGD, SGD))
    assert set(theirs) <= set(ours)
    assert all(
        ours[name].kind == p.kind and ours[name].default == p.default for name, p in theirs.items()
    )
    SGD([torch.zeros(1)], fused=True)
    SGD([torch.zeros(1)], foreach=False)


def test_overrides_by_name_equal_the_core(same):
    recipe = Recipe(weight="fixed<8,6>/stochastic", overrides={"b": None})
    arrays = {"a": np.float32([0.3, 0.7]), "b": np.float32([0.3])}
    named = [(name, torch.nn.Parameter(torch.tensor(a))) for name, a in arrays.items()]
    ours, core = SGD(named, 0.1, recipe=recipe), CoreSGD(0.1, recipe=recipe)
    for _, p in named:
        p.grad = torch.ones_like(p)
    ours.step()
    arrays, _ = core.update(
        arrays, {name: np.ones_like(a) for name, a in arrays.items()}, core.init(arrays)
    )
    for name, p in named:
        same(p, arrays[name])


@pytest.mark.parametrize("kind", [{"foreach": False}, {"foreach": True}, {"fused": True}], ids=str)
@pytest.mark.parametrize(
    ("lr", "momentum", "weight_decay", "nesterov"),
    [(0.125, 0.9, 0, False), (0.125, 0.5, 2**-10, True), (0.25, 0, 0, False)],
)
@pytest.mark.parametrize(
    "recipe",
    [
        swalp(8).resolve(out=0),
        Recipe(weight="float<8,22>/stochastic"),
        Recipe(weight="e4m3fn/stochastic", accumulator="float<8,20>/stochastic"),
    ],
    ids=["swalp", "fine", "accumulator"],
)
def test_equals_torch_sgd_where_products_are_exact(
    same, kind, lr, momentum, weight_decay, nesterov, recipe
):
    """torch.optim.SGD contracts α·u, λ·w and (Nesterov, fused) ρ·v into the sums after them, which
    shows unless the products are exact, as by powers of two. It decays the accumulator where there
    is one, ours the weight.
    """
    momentum = 0.5 if "fused" in kind and momentum else momentum
    start = torch.randn(20, 33)
    theirs, ours = (torch.nn.Parameter(start.clone()) for _ in range(2))
    decay = 0 if recipe.accumulator else weight_decay
    plain = torch.optim.SGD([theirs], lr, momentum, weight_decay=decay, nesterov=nesterov, **kind)
    a = quantize_optimizer(plain, recipe, seed=3)
    with torch.no_grad():
        ours.copy_(theirs)
    b = SGD([ours], lr, momentum, 0, decay, nesterov, recipe=recipe, seed=3)
    for _ in range(5):
        gradient = torch.randn(20, 33)
        theirs.grad, ours.grad = gradient.clone(), gradient.clone()
        a.step()
        b.step()
        same(theirs, ours)
        for key in a.state[theirs]:
            if isinstance(a.state[theirs][key], torch.Tensor):
                same(a.state[theirs][key], b.state[ours][key])


def test_checkpoints_pass_between_ours_and_torchs(same):
    """The two keep the same state under the same names."""
    p, recipe = torch.nn.Parameter(torch.randn(4, 3)), swalp(8).resolve(out=0)
    a = quantize_optimizer(torch.optim.SGD([p], 0.125, momentum=0.5), recipe, seed=3)
    p.grad = torch.randn(4, 3)
    a.step()
    copy = torch.nn.Parameter(p.detach().clone())
    b = SGD([copy], 0.125, 0.5, recipe=recipe)
    b.load_state_dict(deepcopy(a.state_dict()))  # loading shares tensors
    p.grad, copy.grad = torch.ones(4, 3), torch.ones(4, 3)
    a.step()
    b.step()
    same(p, copy)


def test_all_parameters_go_in_one_call(same, monkeypatch):
    """Of all groups, each with its own numbers."""
    found = []
    sgd = CPU.sgd
    monkeypatch.setattr(
        CPU, "sgd", lambda tensors, chunks: (found.append(len(tensors)), sgd(tensors, chunks))
    )
    start = [torch.randn(9, 3), torch.randn(3), torch.randn(2, 2, 5)]
    together, alone = ([torch.nn.Parameter(x.clone()) for x in start] for _ in range(2))
    rates = (0.1, 0.3, 0.3)
    options = {"momentum": 0.9, "recipe": swalp(8).resolve(out=0), "seed": 4}
    one = SGD([{"params": together[:1], "lr": 0.1}, {"params": together[1:], "lr": 0.3}], **options)
    many = [
        SGD([*alone[:i], p], rate, **options)
        for i, (p, rate) in enumerate(zip(alone, rates, strict=True))
    ]
    for _ in range(3):
        for p, q in zip(together, alone, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = None
        found.clear()
        one.step()
        assert found == [3]
        for p, q, optimizer in zip(
            together, alone, many, strict=True
        ):  # the index of a parameter numbers its stream
            q.grad = p.grad
            optimizer.step()
            q.grad = None
    for p, q in zip(together, alone, strict=True):
        same(p, q)


def test_learning_rates_may_be_tensors_and_change(same):
    weights = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    a, b = SGD([weights[0]], torch.tensor(0.125)), SGD([weights[1]], 0.125)
    for lr in (0.125, 0.25):
        a.param_groups[0]["lr"].fill_(lr)
        b.param_groups[0]["lr"] = lr
        for p, opt in zip(weights, (a, b), strict=True):
            p.grad = torch.full((3,), 0.3)
            opt.step()
    same(weights[0], weights[1])


def test_a_gradient_is_not_the_first_momentum_itself():
    p = torch.nn.Parameter(torch.ones(3))
    opt = SGD([p], 0.1, 0.9)
    p.grad = torch.ones(3)
    opt.step()
    p.grad.zero_()
    assert opt.state[p]["momentum_buffer"].tolist() == [1, 1, 1]
