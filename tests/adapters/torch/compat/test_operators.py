"""Contracts of the private API of PyTorch that `qemu_swalp_torch._compat.operators` touches.

A failure here says that this release of PyTorch changed an item: mend that item, and nothing else.
"""

import torch
from qemu_swalp_torch import _compat

from tests.adapters.torch.compat.conftest import changed


def test_safe_softmax():
    scores = torch.tensor([[0.0, -torch.inf], [-torch.inf, -torch.inf]])
    assert _compat.safe_softmax(scores).tolist() == [[1, 0], [0, 0]], changed("safe_softmax")


def test_lost_weight():
    class Lost(torch.overrides.TorchFunctionMode):
        found = None

        def __torch_function__(self, function, types, inputs=(), options=None):
            if function is torch.nn.functional.l1_loss:
                assert "weight" not in (options or {}), changed("lost_weight")
                Lost.found = _compat.lost_weight()
            return function(*inputs, **(options or {}))

    weight = torch.ones(2)
    with Lost():
        torch.nn.functional.l1_loss(torch.ones(2), torch.ones(2), weight=weight)
    assert Lost.found is weight, changed("lost_weight")


def test_native_functions():
    names = {"linear", "linalg_matmul", "lstm"}
    found = [n for place in _compat.native_functions() for n in names if hasattr(place, n)]
    assert set(found) == names, changed("native_functions")


def test_dispatch_mode():
    seen = []

    class Names(_compat.DispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(_compat.operator_name(func))
            return func(*args, **(kwargs or {}))

    with Names():
        torch.ones(2, 2) @ torch.ones(2, 2)
    assert ("aten", "mm") in seen, changed("DispatchMode")


def test_operator_name():
    for function in (torch.ops.aten.mm, torch.ops.aten.mm.default):
        assert _compat.operator_name(function) == ("aten", "mm"), changed("operator_name")
    assert _compat.operator_name(torch.mm) is None


def test_overload_name():
    scatter = torch.ops.aten.scatter
    assert _compat.overload_name(scatter.reduce) == "reduce", changed("overload_name")
    assert _compat.overload_name(torch.ops.aten.mm.default) == "default", changed("overload_name")


def test_positional_arguments():
    orders = _compat.positional_arguments("mm")
    assert orders[0] == ["self", "mat2"], changed("positional_arguments")
    orders = _compat.positional_arguments("baddbmm")
    assert orders[0] == ["self", "batch1", "batch2"], changed("positional_arguments")
    assert _compat.positional_arguments("nothing") == []


def test_without_interception():
    class Refuse(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, inputs=(), options=None):
            raise AssertionError(changed("without_interception"))

    with Refuse(), _compat.without_interception():
        torch.ones(2).sum()


def test_is_higher_order():
    assert _compat.is_higher_order(torch.ops.higher_order.cond), changed("is_higher_order")
    assert not _compat.is_higher_order(torch.ops.aten.mm.default), changed("is_higher_order")
