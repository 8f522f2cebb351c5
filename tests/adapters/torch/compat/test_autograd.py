"""Contracts of the private API of PyTorch that `qemu_swalp_torch._compat.autograd` touches.

A failure here says that this release of PyTorch changed an item: mend that item, and nothing else.
"""

import inspect

import pytest
import torch
from qemu_swalp_torch import _compat
from torch import nn

from tests.adapters.torch.compat.conftest import changed
from tests.helpers.torch_functions import Copied


def test_backward_id():
    ids = []

    class Probe(Copied):
        @staticmethod
        def backward(ctx, gradient):
            ids.append(_compat.backward_id())
            return gradient

    x = torch.ones(1, requires_grad=True)
    for _ in range(2):
        Probe.apply(x).backward()
    assert _compat.backward_id() == -1, changed("backward_id")
    assert len(set(ids)) == 2, changed("backward_id")
    assert -1 not in ids, changed("backward_id")


def test_version_of():
    x = torch.zeros(2)
    before = _compat.version_of(x)
    x.add_(1)
    assert _compat.version_of(x) == before + 1, changed("version_of")


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_recompute_a_replaced_function(monkeypatch, reentrant):
    module = torch.utils.checkpoint
    name = "_checkpoint_without_reentrant_generator"
    monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.setattr(module.CheckpointFunction, "forward", module.CheckpointFunction.forward)
    calls = []

    def replaced(function):
        return lambda *inputs: (calls.append(_compat.backward_id()), function(*inputs))[1]

    _compat.replace_checkpointed(replaced)
    x = torch.ones(2, requires_grad=True)
    module.checkpoint(torch.sin, x, use_reentrant=reentrant).sum().backward()
    assert [task != -1 for task in calls] == ([False, True] if reentrant else [True]), changed(
        "replace_checkpointed"
    )


def test_replace_backward(monkeypatch):
    name, order = "_engine_run_backward", []
    for module in (torch.autograd, torch.autograd.graph):
        monkeypatch.setattr(module, name, getattr(module, name))
    _compat.replace_backward(lambda run: lambda *a, **k: (order.append("begun"), run(*a, **k))[1])
    x = torch.ones(2, requires_grad=True)
    x.sum().backward()
    torch.autograd.backward(x.sum())
    torch.autograd.grad(x.sum(), x)
    torch.autograd.grad(x * 2, x, torch.eye(2), is_grads_batched=True)
    torch.func.grad(lambda x: x.sum())(torch.ones(2))
    assert len(order) == 5, changed("replace_backward")


def test_nodes_and_hooks_of_a_backward():
    """Whose node runs is known in its hooks too, and of module hooks the module."""
    seen = []

    def look(*_):
        frame, node = inspect.currentframe(), _compat.running_node()
        frames = []
        while frame is not None:
            frames.append(frame)
            frame = frame.f_back
        modules = [m for f in frames if (m := _compat.module_hooked_in(f)) is not None]
        kinds = [k for f in frames if (k := _compat.function_running_in(f)) is not None]
        variable = getattr(node, "variable", None)
        seen.append((_compat.node_number(node), variable, [*modules, *kinds]))

    class Probe(Copied):
        @staticmethod
        def backward(ctx, gradient):
            look()
            return gradient

    layer = nn.Linear(2, 2)
    before = set(_compat.backward_hooks(layer))
    handles = [
        layer.register_full_backward_hook(look),
        layer.register_full_backward_pre_hook(look),
        layer.weight.register_hook(look),
        layer.weight.register_post_accumulate_grad_hook(look),
    ]
    ids = {handle.id for handle in handles}
    assert set(_compat.backward_hooks(layer)) - before == ids, changed("backward_hooks")
    found = set(_compat.parameter_hooks(layer.weight))
    assert found == {handle.id for handle in handles[2:]}, changed("parameter_hooks")
    assert torch.utils.hooks.RemovableHandle.next_id > max(ids), changed("RemovableHandle.next_id")
    first = _compat.next_node_number()
    y = Probe.apply(torch.ones(1, 2, requires_grad=True))
    second = _compat.next_node_number()
    layer(y).sum().backward()
    pre, *others, function = [s for s in seen if s[1] is None]
    assert first <= function[0] < second <= pre[0], changed("next_node_number")
    assert function[2] == [Probe], changed("function_running_in")
    assert [s[2] for s in (pre, *others)] == [[layer], [layer]], changed("module_hooked_in")
    assert [s[1] is layer.weight for s in seen].count(True) == 2, changed("running_node")
