"""What hooks around a forward multiply is rounded like the forward's own, those of the model itself
included, whenever they were registered.
"""

from copy import deepcopy

import pytest
import torch
from qemu_swalp_torch import quantize_elementwise, quantize_gemms
from torch import nn
from torch.nn.modules import module as hooks

from qemu_swalp.training import Recipe

EYE = torch.eye(2)
RECIPE = Recipe(operands={"input": "fixed<8,1>/nearest_even"})


def multiplied(x):
    """0.3 times the unit matrix, whatever x is: 0.5 where the factors are rounded."""
    return (x * 0 + 0.3) @ EYE


REGISTER = {
    "after": lambda m: m.register_forward_hook(lambda _, x, y: multiplied(y)),
    "first after": lambda m: m.register_forward_hook(lambda _, x, y: multiplied(y), prepend=True),
    "always after": lambda m: m.register_forward_hook(
        lambda _, x, y: multiplied(y), always_call=True
    ),
    "after, with keywords": lambda m: m.register_forward_hook(
        lambda _, x, options, y: multiplied(y), with_kwargs=True
    ),
    "before": lambda m: m.register_forward_pre_hook(lambda _, x: (multiplied(x[0]),)),
    "before, with keywords": lambda m: m.register_forward_pre_hook(
        lambda _, x, options: ((multiplied(x[0]),), options), with_kwargs=True
    ),
    "global after": lambda m: hooks.register_module_forward_hook(
        lambda of, x, y: multiplied(y) if of is m else None
    ),
    "global before": lambda m: hooks.register_module_forward_pre_hook(
        lambda of, x: (multiplied(x[0]),) if of is m else None
    ),
}


@pytest.mark.parametrize("order", ["hook first", "rounding first"])
@pytest.mark.parametrize("kind", REGISTER)
def test_products_in_hooks_of_the_model_itself(kind, order):
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    nn.init.eye_(model[0].weight)
    if order == "hook first":
        hook = REGISTER[kind](model)
    handle = quantize_gemms(model, RECIPE, attention=True)
    if order != "hook first":
        hook = REGISTER[kind](model)
    for called in (model, model, *([] if "global" in kind else [deepcopy(model)])):
        assert called(torch.zeros(1, 2)).tolist() == [[0.5, 0.5]]
    handle.remove()
    assert model(torch.zeros(1, 2)).tolist() == [[pytest.approx(0.3)] * 2]
    hook.remove()
    assert model(torch.zeros(1, 2)).tolist() == [[0.0, 0.0]]
    assert not {"forward", "_call_impl"} & set(model.__dict__)


@pytest.mark.parametrize("kind", ["after", "before, with keywords"])
def test_the_same_within_a_graph(kind):
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    nn.init.eye_(model[0].weight)
    quantize_gemms(model, RECIPE, attention=True)
    REGISTER[kind](model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert compiled(torch.zeros(1, 2)).tolist() == [[0.5, 0.5]]


def test_operations_in_hooks_draw_no_random_bits_of_the_forward():
    """Its operations are rounded too; a hook that computes nothing changes nothing."""
    recipe = Recipe(elementwise="fixed<8,1>/stochastic")
    results = []
    for hook in (None, lambda _, x: None, lambda _, x: (x[0] * 1.0,)):
        model = nn.Sequential(nn.Softmax(-1))
        if hook is not None:
            model.register_forward_pre_hook(hook)
        quantize_elementwise(model, recipe, seed=0)
        results.append([model(torch.linspace(0, 1, 32)[None]).tolist() for _ in range(3)])
    assert results[0] == results[1] != results[2]
