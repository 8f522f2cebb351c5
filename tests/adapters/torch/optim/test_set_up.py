"""Set-up changes all or nothing, and an optimizer rounds only if it was quantized."""

import copy
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch
from qemu_swalp_torch import SGD, quantize_optimizer, unquantize_optimizer
from qemu_swalp_torch.optim import wrap
from torch import nn

from qemu_swalp.training import Recipe

RECIPE = Recipe(weight="fixed<8,2>/stochastic", momentum="bf16/stochastic")


def weight() -> nn.Parameter:
    return nn.Parameter(torch.full((3,), 0.3))


def trained(opt: torch.optim.Optimizer) -> torch.optim.Optimizer:
    for group in opt.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    opt.step()
    return opt


def quantized(ours: bool) -> torch.optim.Optimizer:
    if ours:
        return SGD([weight()], 0.1, 0.9, recipe=RECIPE)
    return quantize_optimizer(torch.optim.SGD([weight()], 0.1, 0.9), RECIPE)


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("way", ["load_state_dict", "param_groups"])
def test_a_plain_optimizer_with_the_configuration_of_a_quantized_one_is_refused(ours, way):
    source = trained(quantized(ours))
    if way == "load_state_dict":
        p = weight()
        opt = torch.optim.SGD([p], 0.1, 0.9)
        opt.load_state_dict(source.state_dict())
    else:
        (p,) = source.param_groups[0]["params"]
        opt = torch.optim.SGD(source.param_groups, 0.1)
    p.grad = torch.ones_like(p)
    before = p.detach().clone()
    with pytest.raises(RuntimeError, match=r"quantize_optimizer on it .* unquantize_optimizer"):
        opt.step()
    assert torch.equal(p, before)


def test_also_in_a_process_that_has_quantized_nothing(tmp_path):
    torch.save(trained(quantized(False)).state_dict(), tmp_path / "state")
    script = f"""
import torch, qemu_swalp_torch
p = torch.nn.Parameter(torch.ones(3))
p.grad, opt = torch.ones(3), torch.optim.SGD([p], 0.1, 0.9)
opt.load_state_dict(torch.load({str(tmp_path / "state")!r}))
try:
    opt.step()
except RuntimeError as error:
    assert "call quantize_optimizer on it" in str(error) and p.tolist() == [1.0] * 3
else:
    raise SystemExit(1)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_either_remedy_works():
    state = trained(quantized(False)).state_dict()
    p, q = weight(), weight()
    rounds, plain = torch.optim.SGD([p], 0.1, 0.9), torch.optim.SGD([q], 0.1, 0.9)
    for opt in (rounds, plain):
        opt.load_state_dict(state)
    trained(quantize_optimizer(rounds, RECIPE))
    trained(unquantize_optimizer(plain))
    assert rounds.param_groups[0]["qemu_step"] == 2
    assert torch.equal(p * 4, (p * 4).round())
    assert not torch.equal(q * 4, (q * 4).round())


@pytest.mark.parametrize("ours", [False, True])
def test_copies_go_on(ours):
    source = quantized(ours)
    for opt in (copy.deepcopy(source), pickle.loads(pickle.dumps(source))):
        (p,) = trained(opt).param_groups[0]["params"]
        assert torch.equal(p * 4, (p * 4).round())


def test_a_wrapper_that_shares_the_groups_of_a_quantized_optimizer_steps():
    class Wrapper(torch.optim.Optimizer):
        def __init__(self, inner: torch.optim.Optimizer) -> None:
            super().__init__(inner.param_groups, inner.defaults)
            self.inner, self.param_groups = inner, inner.param_groups

        def step(self, closure: Any = None) -> Any:
            return self.inner.step(closure)

    inner = torch.optim.SGD([p := weight()], 0.1)
    opt = Wrapper(inner)
    quantize_optimizer(inner, RECIPE)
    trained(opt)
    assert inner.param_groups[0]["qemu_step"] == 1
    assert torch.equal(p * 4, (p * 4).round())


@pytest.mark.parametrize("failing", ["attach", "count_on_device", "rounded_for"])
def test_an_optimizer_whose_set_up_raised_is_left_as_it_was(monkeypatch, failing):
    first, second = weight(), weight()
    opt = torch.optim.SGD([first, second], 0.1)
    groups, defaults = [dict(group) for group in opt.param_groups], opt.defaults
    original, calls = getattr(wrap, failing), []

    def fails(*arguments: Any) -> Any:
        calls.append(arguments)
        result = original(*arguments)
        if failing != "rounded_for" or len(calls) == 2:
            raise MemoryError
        return result

    monkeypatch.setattr(wrap, failing, fails)
    with pytest.raises(MemoryError):
        quantize_optimizer(opt, RECIPE, capturable=True)
    monkeypatch.undo()
    assert opt.param_groups == groups
    assert opt.defaults is defaults
    assert type(defaults) is dict
    trained(opt)
    for p in (first, second):
        assert torch.equal(p, torch.full((3,), 0.3) - 0.1)
    quantize_optimizer(opt, RECIPE)


def test_an_optimizer_that_ignores_its_closure_has_rounded_weights():
    class Ignores(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            for p in self.param_groups[0]["params"]:
                p.sub_(p.grad, alpha=0.3)

    p = weight()
    opt = quantize_optimizer(Ignores([p], {}), RECIPE)
    for _ in range(2):
        p.grad = torch.ones_like(p)
        opt.step(lambda: 0.0)
        assert torch.equal(p * 4, (p * 4).round())
    assert p.tolist() != [0.25] * 3
