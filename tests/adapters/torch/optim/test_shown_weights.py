"""Weights that somebody writes between two steps become those of the accumulator."""

import copy

import pytest
import torch
from qemu_swalp_torch import SGD, Averager, quantize_optimizer
from torch import nn

from qemu_swalp.training import Recipe

RECIPE = Recipe(weight="fixed<8,4>/nearest_even", accumulator="bf16/nearest_even")
RATE = 2.0**-6  # a step of this size is lost in a weight, and kept in an accumulator


def hooked(weight):
    return quantize_optimizer(torch.optim.SGD([weight], RATE), RECIPE)


KINDS = {
    "hooks": hooked,
    "Adam": lambda p: quantize_optimizer(torch.optim.Adam([p], RATE), RECIPE),
    "SGD of ours": lambda p: SGD([p], RATE, recipe=RECIPE),
}
WAYS = {
    "copy_": lambda p: p.detach().copy_(torch.tensor([0.75, 1.0, -0.5])),
    "data": lambda p: p.data.fill_(0.75),
    "clamped": lambda p: p.data.clamp_(max=0.5),
    "assigned": lambda p: setattr(p, "data", torch.tensor([0.75, 1.0, -0.5]).to(p.dtype)),
    "loaded": lambda p: nn.ParameterList([p]).load_state_dict({"0": torch.full((3,), 0.75)}),
}


def step(optimizer, times=1, closure=False):
    (p,) = optimizer.param_groups[0]["params"]

    def evaluate():
        p.grad = torch.ones_like(p)
        return p.sum()

    for _ in range(times):
        if closure:
            optimizer.step(evaluate)
        else:
            evaluate()
            optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("closure", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_what_is_written_is_where_the_next_step_begins(kind, way, closure, dtype):
    p = nn.Parameter(torch.tensor([1.0, 1.0, -0.5], dtype=dtype))
    optimizer = KINDS[kind](p)
    step(optimizer, closure=closure)
    kept = optimizer.state[p]["qemu_accumulator"].clone()
    before = p.detach().clone()
    plain = copy.deepcopy(optimizer)
    WAYS[way](p)
    expected = torch.where(p == before, kept, p.detach())
    step(plain, closure=closure)
    moved = plain.state[plain.param_groups[0]["params"][0]]["qemu_accumulator"] - kept
    step(optimizer, closure=closure)
    found = optimizer.state[p]["qemu_accumulator"]
    torch.testing.assert_close(found, expected + moved, rtol=0, atol=2.0**-7)
    assert (p - expected).abs().max() < 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_is_no_edit(same, kind):
    p = nn.Parameter(torch.tensor([1.0, 1.0, -0.5]))
    optimizer = KINDS[kind](p)
    step(optimizer, 3)
    weight, state = p.detach().clone(), copy.deepcopy(optimizer.state_dict())
    step(optimizer, 3)
    expected = p.detach().clone(), optimizer.state[p]["qemu_accumulator"].clone()
    for model_first in (True, False):
        step(optimizer, 5)
        if model_first:
            p.data.copy_(weight)
        optimizer.load_state_dict(copy.deepcopy(state))
        if not model_first:
            p.data.copy_(weight)
        step(optimizer, 3)
        same(p, expected[0])
        same(optimizer.state[p]["qemu_accumulator"], expected[1])


ROUNDINGS = {
    "nearest": RECIPE,
    "stochastic": Recipe(weight="fixed<8,4>/stochastic", accumulator="bf16/stochastic"),
    "blocks": Recipe(weight="bfp<4>/stochastic", accumulator="float<8,12>/nearest_even"),
}
ORDERS = ("edit, load optimizer", "load optimizer, edit", "copy, edit", "edit, copy")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("native", [False, True])
def test_an_edit_after_loading_is_kept(same, native, rounding, order):
    """In whatever order; elements that nobody wrote keep their accumulators, and with them all that
    they have learned.
    """
    recipe = ROUNDINGS[rounding]

    def made(p):
        if native:
            return SGD([p], RATE, recipe=recipe, seed=0)
        return quantize_optimizer(torch.optim.SGD([p], RATE), recipe, seed=0)

    p = nn.Parameter(torch.linspace(-1, 1, 40).reshape(5, 8))
    optimizer = made(p)
    step(optimizer, 3)
    p.grad = None
    optimizer.step()  # without a gradient: other random bits than those of the weight
    kept, saved = optimizer.state[p]["qemu_accumulator"].clone(), optimizer.state_dict()
    if "copy" in order:
        edited = None
        for part in order.split(", "):
            if part == "edit":
                with torch.no_grad():
                    (edited or optimizer).param_groups[0]["params"][0][1] = 0.75
            else:
                edited = copy.deepcopy(optimizer)
    else:
        fresh = nn.Parameter(p.detach().clone())
        edited = made(fresh)
        for part in order.split(", "):
            if part == "edit":
                fresh.data[1] = 0.75
            else:
                edited.load_state_dict(copy.deepcopy(saved))
    (weight,) = edited.param_groups[0]["params"]
    weight.grad = torch.zeros_like(weight)
    weight.grad[0, 0] = 1e-9  # a step of no weight
    edited.step()
    expected = kept.clone()
    expected[1] = 0.75
    same(edited.state[weight]["qemu_accumulator"], expected)
    if recipe.weight.rounding.stochastic is False:
        assert (weight[1] == 0.75).all()


OTHERS = {
    "nearest": Recipe(weight="fixed<8,6>/nearest_even", accumulator="bf16/nearest_even"),
    "stochastic": Recipe(weight="fixed<8,2>/stochastic", accumulator="bf16/stochastic"),
    "unrounded": Recipe(accumulator="bf16/nearest_even"),
}


@pytest.mark.parametrize("order", ["model first", "optimizer first", "quantized last"])
@pytest.mark.parametrize("recipe", OTHERS)
@pytest.mark.parametrize("native", [False, True])
def test_an_edit_of_a_checkpoint_of_another_recipe_is_kept(same, native, recipe, order):
    """And nothing else of what the accumulators have learned is lost."""

    def made(p, recipe):
        if native:
            return SGD([p], RATE, recipe=recipe, seed=0, allow_recipe_change=True)
        optimizer = torch.optim.SGD([p], RATE)
        return quantize_optimizer(optimizer, recipe, seed=0, allow_recipe_change=True)

    p = nn.Parameter(torch.linspace(-1, 1, 40).reshape(5, 8))
    before = made(p, ROUNDINGS["stochastic"])
    step(before, 3)
    kept, saved = before.state[p]["qemu_accumulator"].clone(), before.state_dict()
    edited = p.detach().clone()
    edited[1] = 0.25 * edited[1].sign() + 0.5
    fresh = nn.Parameter(edited.clone() if order == "quantized last" else torch.zeros(5, 8))
    optimizer = made(fresh, OTHERS[recipe])
    for part in ("model", "optimizer") if order == "model first" else ("optimizer", "model"):
        if part == "optimizer":
            optimizer.load_state_dict(copy.deepcopy(saved))
        elif order != "quantized last":
            fresh.data.copy_(edited)
    fresh.grad = torch.zeros_like(fresh)
    fresh.grad[0, 0] = 1e-9  # a step of no weight
    optimizer.step()
    kept[1] = edited[1]
    same(optimizer.state[fresh]["qemu_accumulator"], kept)


def test_what_cannot_be_told_is_told():
    """Overrides by names that the parameters do not have here."""
    p, overrides = nn.Parameter(torch.ones(3)), {"w": ROUNDINGS["stochastic"]}
    named = quantize_optimizer(
        torch.optim.SGD([p], RATE),
        Recipe(**RECIPE.to_dict(), overrides=overrides),
        named_parameters=[("w", p)],
    )
    step(named)
    plain = quantize_optimizer(
        torch.optim.SGD([nn.Parameter(torch.ones(3))], RATE), RECIPE, allow_recipe_change=True
    )
    with pytest.warns(UserWarning, match="all begin from the checkpoint's accumulators"):
        plain.load_state_dict(named.state_dict())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["left", "restored", "abandoned"])
def test_an_average_in_the_model_is_no_edit(same, kind, how):
    results = []
    for swapped in (False, True):
        model = nn.Linear(3, 1, bias=False)
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[1.0, 1.0, -0.5]]))
        optimizer = KINDS[kind](model.weight)
        averager = Averager(model)
        averager.attach(optimizer)
        step(optimizer, 3)
        if swapped:
            swap = averager.swap()
            swap.__enter__()
            if how == "left":
                swap.__exit__(None, None, None)
            elif how == "restored":
                averager.restore()
            del swap
        step(optimizer, 3)
        state = optimizer.state[model.weight]["qemu_accumulator"]
        results.append({"weight": model.weight.detach(), "accumulator": state})
    same(*results)
