"""Names under wrappers, and patterns that match nothing."""

import pytest
import torch
from qemu_swalp_torch import (
    SGD,
    quantize_activations,
    quantize_elementwise,
    quantize_gemms,
    quantize_optimizer,
)
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from qemu_swalp.training import Recipe, swalp

MXFP8 = {"input": "mxfp8_e4m3", "weight": "mxfp8_e4m3", "error": "mxfp8_e5m2"}


def net():
    return nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4), nn.LayerNorm(4))


@pytest.fixture
def group(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:the model was compiled before")
@pytest.mark.parametrize("wrap", ["plain", "compiled", "inner compiled", "ddp", "checkpointed"])
def test_names_are_those_of_the_model_under_any_wrapper(wrap, group):
    model = net()
    if wrap == "inner compiled":
        model[2] = torch.compile(model[2])
    wrapped = {
        "compiled": torch.compile,
        "ddp": nn.parallel.DistributedDataParallel,
        "checkpointed": checkpoint_wrapper,
    }.get(wrap, lambda m: m)(model)
    assert quantize_gemms(wrapped, Recipe(operands=MXFP8), exclude="2").names == ["0"]
    overrides = {"0.*": None, "2.operands": Recipe(operands=MXFP8)}
    found = quantize_gemms(net(), Recipe(operands=MXFP8, overrides=overrides)).names
    assert found == ["2"]
    recipe = Recipe("e4m3fn", overrides={"2.*": None})
    opt = quantize_optimizer(torch.optim.SGD(wrapped.parameters(), 0.1), recipe, model=wrapped)
    del opt
    on_grid = [bool((p == p.to(torch.float8_e4m3fn).float()).all()) for p in model.parameters()]
    assert on_grid[0]
    assert not on_grid[2]


def test_named_parameters_of_a_compiled_model_go_by_the_models_names():
    model = net()
    recipe = Recipe(None, overrides={"2.*": Recipe("e4m3fn")})
    optimizer = SGD(torch.compile(model).named_parameters(), 0.1, recipe=recipe)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.1)
    optimizer.step()
    on_grid = [bool((p == p.to(torch.float8_e4m3fn).float()).all()) for p in model.parameters()]
    assert on_grid == [False, False, True, True, False, False]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: quantize_activations(net(), swalp(8), exclude="4"), "exclude: '4' matches none"),
        (lambda: quantize_activations(net(), swalp(8), inputs=("7",)), "inputs: '7' matches none"),
        (
            lambda: quantize_gemms(net(), Recipe(operands=MXFP8), modules=[nn.Linear, "fc*"]),
            r"modules: 'fc\*' matches none of 5 names",
        ),
        (
            lambda: quantize_elementwise(net(), Recipe(elementwise="bf16"), exclude=["9"]),
            "exclude: '9' matches none",
        ),
        (
            lambda: quantize_gemms(net(), Recipe(operands=MXFP8, overrides={"fc.operands": None})),
            "the pattern 'fc.operands' of overrides matches none",
        ),
        (
            lambda: quantize_optimizer(
                torch.optim.SGD((m := net()).parameters(), 0.1),
                Recipe("bf16", overrides={"*.wieght": None}),
                model=m,
            ),
            r"the pattern '\*.wieght' of overrides matches none .* 0.weight",
        ),
        (
            lambda: SGD(
                net().named_parameters(), 0.1, recipe=Recipe("bf16", overrides={"fc.*": None})
            ),
            r"the pattern 'fc.\*' of overrides matches none",
        ),
    ],
)
def test_patterns_that_match_nothing_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_patterns_of_other_calls_are_let_be():
    """One recipe for all calls: what names outputs says nothing to the optimizer, and so on."""
    recipe = Recipe(
        "bf16", activation="bf16", overrides={"1.output": None, "0.bias": None, "*.operands": None}
    )
    model = net()
    assert quantize_activations(model, recipe).names == ["0", "2", "3"]
    quantize_optimizer(torch.optim.SGD(model.parameters(), 0.1), recipe, model=model)
    SGD(model.named_parameters(), 0.1, recipe=recipe)
