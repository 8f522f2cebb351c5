"""A rounded model is exported with its roundings, or refused; never without them unseen."""

import pickle
from copy import deepcopy

import pytest
import torch
from qemu_swalp_torch import (
    disabled,
    emulate,
    quantize_activations,
    quantize_elementwise,
    quantize_gemms,
)
from torch import nn

from qemu_swalp.training import Recipe

CALLS = {
    "activations": lambda model, how: quantize_activations(
        model, Recipe(activation=f"e4m3fn/{how}")
    ),
    "inputs": lambda model, how: quantize_activations(
        model, Recipe(activation=f"e4m3fn/{how}"), modules=(), inputs="1"
    ),
    "products": lambda model, how: quantize_gemms(
        model, Recipe(operands={"input": f"e4m3fn/{how}"})
    ),
    "elementwise": lambda model, how: quantize_elementwise(
        model, Recipe(elementwise=f"bf16/{how}")
    ),
    "all": lambda model, how: emulate(
        model,
        None,
        Recipe(activation=f"e4m3fn/{how}", operands={"input": f"e4m3fn/{how}"}, elementwise="bf16"),
    ),
}
"""Section of a recipe → the call that applies it with a rounding."""


class Written(nn.Module):
    """A product and a softmax that are not modules."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, 3))

    def forward(self, x):
        return torch.softmax(nn.functional.linear(x, self.w), -1)


def model_of(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 3), Written(), nn.Linear(3, 2)).eval()


ACTIVATION = Recipe(activation="e4m3fn/nearest_even")
X = torch.linspace(-1, 1, 12).reshape(4, 3)


@pytest.fixture(params=CALLS)
def rounded(request):
    return lambda how: (model := model_of(), CALLS[request.param](model, how))


@pytest.mark.parametrize("strict", [False, True])
def test_export_keeps_the_roundings(rounded, strict):
    torch._dynamo.reset()
    model, _ = rounded("nearest_even")
    exported = torch.export.export(model, (X,), strict=strict).module()
    assert torch.equal(exported(X), model(X))
    assert not torch.equal(exported(X), model_of()(X))
    torch._dynamo.reset()


@pytest.mark.parametrize("how", ["nearest_even", "stochastic"])
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_script_is_refused(rounded, how):
    model, handle = rounded(how)
    with pytest.raises(
        RuntimeError, match=r"torch\.jit\.script cannot .*torch\.export.*remove\(\)"
    ):
        torch.jit.script(model)
    model(X)
    handle.remove()
    assert torch.equal(torch.jit.script(model)(X), model_of()(X))


@pytest.mark.parametrize("how", ["nearest_even", "stochastic"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_trace_is_refused(rounded, how):
    model, handle = rounded(how)
    match = r"torch\.jit\.trace cannot .*torch\.export.*remove\(\).*disabled\(model\)"
    with pytest.raises(RuntimeError, match=match):
        torch.jit.trace(model, X)
    with disabled(model):
        assert torch.equal(torch.jit.trace(model, X)(X), model_of()(X))
    handle.remove()
    assert torch.equal(torch.jit.trace(model, X)(X), model_of()(X))


class Root(nn.Module):
    """Its own products and operations are in no module that symbolic_trace calls."""

    def __init__(self):
        super().__init__()
        self.part = Written()

    def forward(self, x):
        return torch.tanh(self.part(x) @ self.part.w)


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        *((model_of, call) for call in CALLS.values()),
        *((kind, CALLS[call]) for kind in (Root, Written) for call in ("products", "elementwise")),
        (Root, lambda model, how: quantize_activations(model, ACTIVATION, modules=Written)),
        (Root, lambda model, how: quantize_activations(model, ACTIVATION, modules=Root)),
    ],
)
def test_symbolic_trace_is_refused(kind, call):
    model = kind().eval()
    handle = call(model, "nearest_even")
    whole = nn.Sequential(nn.Identity(), model)
    for root in (model, whole):
        with pytest.raises(TypeError, match=r"symbolic_trace cannot record .*torch\.export"):
            torch.fx.symbolic_trace(root)
    with pytest.raises(NameError, match="not installed as a submodule"):
        torch.fx.symbolic_trace(lambda x: model(x) + 1)
    handle.remove()
    assert torch.equal(torch.fx.symbolic_trace(whole)(X), whole(X))


def test_who_only_asks_for_a_name_is_told_that_there_is_none(rounded):
    model, _ = rounded("stochastic")
    for part in (model[1].__dict__.get("forward"), *model[1]._forward_hooks.values()):
        assert part is None or not hasattr(part, "__name__")
    assert torch.equal(pickle.loads(pickle.dumps(model))(X), deepcopy(model)(X))
