"""What a backward computes in float is told as what a forward does: by hooks, by autograd Functions
of others, by gradients of PyTorch's own.
"""

import copy
import sys
import threading
import warnings

import pytest
import torch
from qemu_swalp_torch import UncoveredError, emulate, quantize_elementwise, quantize_gemms
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules import module as hooks
from torch.utils.checkpoint import checkpoint

from qemu_swalp.training import Recipe
from tests.helpers.dispatched import ALL
from tests.helpers.torch_functions import Copied

EYE = torch.eye(8)
X = torch.linspace(-1, 1, 32).reshape(4, 8)


def multiplied(g):
    return g @ EYE


class Multiplying(Copied):
    @staticmethod
    def backward(ctx, g):
        return multiplied(g)


class Model(nn.Module):
    """One function within a module of a model that has other products."""

    def __init__(self, function=lambda x: x):
        super().__init__()
        self.fc, self.part, self.out = nn.Linear(8, 8), Part(function), nn.Linear(8, 2)

    def forward(self, x):
        return self.out(self.part(self.fc(x)))


class Part(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x) * 1


def hooked(register):
    """A function that registers a hook on its argument, if that has a gradient."""

    def function(x):
        x = x + 0
        if x.requires_grad:
            register(x)
        return x

    return function


def packed(x):
    with saved_tensors_hooks(lambda t: t, multiplied):
        return torch.tanh(x)


WITHIN = {
    "Function": (Multiplying.apply, "part", "aten.mm of autograd.Function Multiplying"),
    "tensor hook": (
        hooked(lambda x: x.register_hook(multiplied)),
        "part",
        r"aten.mm of the hook multiplied \(test_backward_coverage.py:",
    ),
    "node hook": (
        hooked(lambda x: x.grad_fn.register_hook(lambda g, _: (multiplied(g[0]), *g[1:]))),
        "part",
        "aten.mm of the hook .*<lambda>",
    ),
    "node pre-hook": (
        hooked(lambda x: x.grad_fn.register_prehook(lambda g: (multiplied(g[0]), *g[1:]))),
        "part",
        "aten.mm of the hook .*<lambda>",
    ),
    "unpacking hook": (packed, "part", "aten.mm of the hook multiplied"),
    "gradient of PyTorch": (
        lambda x: torch.addr(x, x[:, 0], x[0]),
        "part",
        "aten.mv of the gradient AddrBackward0",
    ),
}
REGISTERED = {
    "full backward hook": (
        lambda m: m.part.register_full_backward_hook(lambda _, g, e: (multiplied(g[0]),)),
        "part",
    ),
    "full backward pre-hook": (
        lambda m: m.part.register_full_backward_pre_hook(lambda _, e: (multiplied(e[0]),)),
        "part",
    ),
    "of the model": (
        lambda m: m.register_full_backward_hook(lambda _, g, e: (multiplied(g[0]),)),
        "the model itself",
    ),
    "global": (
        lambda m: hooks.register_module_full_backward_hook(
            lambda of, g, e: (multiplied(g[0]),) if of is m.part else None
        ),
        "part",
    ),
    "global pre-hook": (
        lambda m: hooks.register_module_full_backward_pre_hook(
            lambda of, e: (multiplied(e[0]),) if of is m.part else None
        ),
        "part",
    ),
    "parameter": (lambda m: m.fc.weight.register_hook(multiplied), "fc"),
    "accumulated": (
        lambda m: m.fc.weight.register_post_accumulate_grad_hook(
            lambda p: setattr(p, "grad", multiplied(p.grad))
        ),
        "fc",
    ),
}


def step(model, x=X):
    model(x.clone().requires_grad_()).sum().backward()


def refused(place, words="aten.mm of the hook"):
    return pytest.raises(
        UncoveredError,
        match=rf"^the recipe's section 'products' could not be applied .* in the backward:"
        rf" {place}: {words}.*% of the FLOPs.*Exclude them by name",
    )


@pytest.mark.parametrize("case", WITHIN)
def test_what_a_forward_leaves_to_its_backward_is_told(case):
    function, place, words = WITHIN[case]
    model = Model(function)
    quantize_gemms(model, ALL)
    with torch.no_grad():
        model(X)  # has no backward
    for _ in range(2):
        with refused(place, words):
            step(model)
    for options in ({"uncovered": "ignore"}, {"exclude": "part"}):
        model = Model(function)
        quantize_gemms(model, ALL, **options)
        step(model)


@pytest.mark.parametrize("when", ["before", "after a step", "of a copy"])
@pytest.mark.parametrize("case", REGISTERED)
def test_products_of_hooks_are_told_whenever_they_were_registered(case, when):
    register, place = REGISTERED[case]
    model = Model()
    if when == "before":
        hook = register(model)
        quantize_gemms(model, ALL)
    else:
        quantize_gemms(model, ALL)
        step(model)
        model = copy.deepcopy(model) if when == "of a copy" else model
        hook = register(model)
    with refused(place):
        step(model)
    hook.remove()
    for _ in range(2):
        step(model)


@pytest.mark.parametrize("case", ["full backward hook", "parameter"])
def test_those_of_excluded_modules_are_not(case):
    register, place = REGISTERED[case]
    model = Model()
    handle = quantize_gemms(model, ALL, exclude=place)
    hook = register(model)
    step(model)
    handle.remove()
    quantize_gemms(model, ALL)
    with refused(place):
        step(model)
    hook.remove()


@pytest.mark.parametrize("reentrant", [True, False])
def test_in_what_a_module_checkpoints(reentrant):
    model = Model(lambda x: checkpoint(Multiplying.apply, x, use_reentrant=reentrant))
    quantize_gemms(model, ALL)
    with refused("part", "aten.mm of autograd.Function Multiplying"):
        step(model)


def test_elementwise_operations_of_functions_are_told():
    class Doubling(Copied):
        @staticmethod
        def backward(ctx, g):
            return 2 * g

    model = Model(Doubling.apply)
    quantize_elementwise(model, Recipe(elementwise="bf16"))
    words = r"section 'elementwise' .* in the backward: part: mul of autograd.Function .*Doubling"
    with pytest.raises(UncoveredError, match=words):
        step(model)


def test_it_is_warned_of_once_and_stands_in_the_table():
    model = Model(Multiplying.apply)
    handle = emulate(model, None, ALL, uncovered="warn")
    with pytest.warns(UserWarning, match="in the backward: part: aten.mm of autograd.Function"):
        step(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(model)
    assert "uncovered in the backward: aten.mm of autograd.Function Multiplying" in str(handle)


def test_what_is_no_part_of_the_model_is_not_told():
    """The loss, an optimizer that a hook steps, gradients of other models."""
    model, other = Model(), nn.Linear(2, 2)
    handle = emulate(model, None, ALL)
    muon = torch.optim.Muon([model.fc.weight])
    model.fc.weight.register_post_accumulate_grad_hook(lambda p: muon.step())
    loss = multiplied(Multiplying.apply(other(model(X)).repeat(1, 4))).sum()
    loss.backward()
    assert "uncovered" not in str(handle)
    assert handle.model.fc.weight.grad is not None


def test_backwards_of_others_in_between_change_nothing():
    """As of a discriminator, before the generator's."""
    model, other = Model(Multiplying.apply), nn.Linear(8, 8)
    quantize_gemms(model, ALL)
    y = model(X)
    other(X).sum().backward()
    with refused("part", "aten.mm of autograd.Function"):
        y.sum().backward()


def test_a_model_without_gradient_is_not_watched_for_ever(monkeypatch):
    from qemu_swalp_torch.model import interception

    watched = []
    monkeypatch.setattr(
        interception, "watched", lambda s, of=interception.watched: (watched.append(s), of(s))[1]
    )
    model = Model().requires_grad_(False)
    quantize_gemms(model, ALL)
    for _ in range(12):
        model(X)
        torch.ones(1, requires_grad=True).sum().backward()
    assert len(watched) == 8
    trained = Model()
    quantize_gemms(trained, ALL)
    for _ in range(3):
        step(trained)
    assert watched.count(watched[-1]) == 1


def test_models_that_other_threads_make_disturb_no_backward():
    model = nn.Linear(2, 2)
    quantize_gemms(model, ALL)
    parked = [copy.copy(model.forward) for _ in range(2000)]
    over = threading.Event()

    def make():
        while not over.is_set():
            parked.append(copy.copy(model.forward))
            del parked[2000:]

    thread, interval = threading.Thread(target=make), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(20):
            y = model(torch.ones(1, 2, requires_grad=True)).sum()
            y.register_hook(lambda gradient: None)  # before whose backward all models are looked at
            y.backward()
    finally:
        over.set()
        thread.join()
        sys.setswitchinterval(interval)
