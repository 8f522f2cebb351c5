"""Contracts of the private API of PyTorch that `qemu_swalp_torch._compat.modules` touches.

A failure here says that this release of PyTorch changed an item: mend that item, and nothing else.
"""

import pytest
import torch
from qemu_swalp_torch import _compat
from torch import nn

from tests.adapters.torch.compat.conftest import changed


def test_call_impl_of():
    model = nn.Linear(2, 2)
    calls = []
    _compat.stand_in(model, lambda x: calls.append(x) or _compat.call_impl_of(model)(model, x))
    x = torch.ones(1, 2)
    assert torch.equal(model(x), model.forward(x)), changed("call_impl_of")
    assert len(calls) == 1, changed("stand_in")
    _compat.stand_in(model, None)
    model(x)
    assert len(calls) == 1, changed("stand_in")


def test_module_hooks():
    module = nn.Linear(1, 1)

    def hook(*_: object) -> None: ...

    before, after = module.register_forward_pre_hook(hook), module.register_forward_hook(hook)
    assert _compat.forward_pre_hooks(module) == {before.id: hook}, changed("forward_pre_hooks")
    assert _compat.forward_hooks(module) == {after.id: hook}, changed("forward_hooks")
    del _compat.forward_pre_hooks(module)[before.id]
    before.remove()
    assert not _compat.forward_pre_hooks(module), changed("forward_pre_hooks")


def test_parameters_of():
    class Found(nn.Linear):
        def forward(self, x):
            return [x is p for p in _compat.parameters_of(self)]

    given = torch.ones(1, 1)
    model = Found(1, 1)
    found = torch.func.functional_call(model, {"weight": given}, given)
    assert found == [True, False], changed("parameters_of")


def test_wrapped():
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
    from torch.distributed.fsdp import fully_sharded_data_parallel as fsdp

    compiled, checkpointed = torch.compile(nn.Linear(1, 1)), checkpoint_wrapper(nn.Linear(1, 1))
    names = {name for m in (compiled, checkpointed) for name, _ in m.named_children()}
    ours = set(_compat.WRAPPED) - {"_forward_module", "_original_module"}
    assert names | {fsdp.FSDP_WRAPPED_MODULE} == ours, changed("WRAPPED")
    fabric = pytest.importorskip("lightning.fabric.wrappers", reason="lightning is not installed")
    inner = nn.Linear(1, 1)
    wrapper = fabric._FabricModule(nn.Sequential(inner), None, original_module=inner)
    names = {name for name, _ in wrapper.named_children()}
    assert names == set(_compat.WRAPPED) - ours, changed("WRAPPED")


def test_check_before_replicating(monkeypatch):
    name, checked = "_replicate_for_data_parallel", []
    monkeypatch.setattr(nn.Module, name, getattr(nn.Module, name))
    _compat.check_before_replicating(checked.append)
    model = nn.Linear(2, 2)
    replica = getattr(model, name)()
    assert checked == [model], changed("check_before_replicating")
    assert not replica._parameters, changed("check_before_replicating")
