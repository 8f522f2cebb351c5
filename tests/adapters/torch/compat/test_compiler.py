"""Contracts of the private API of PyTorch that `qemu_swalp_torch._compat.compiler` touches.

A failure here says that this release of PyTorch changed an item: mend that item, and nothing else.
"""

import importlib
from contextlib import contextmanager

import torch
from qemu_swalp_torch import _compat
from torch import nn

from qemu_swalp.interop.torch import untraced
from tests.adapters.torch.compat.conftest import changed


def test_untraced():
    traced = []

    @untraced
    def probe(x: torch.Tensor) -> torch.Tensor:
        traced.append(torch.compiler.is_compiling())
        return x + 1

    compiled = torch.compile(lambda x: probe(x * 2), backend="eager")
    assert compiled(torch.ones(1)).item() == 3, changed("untraced")
    assert traced == [False], changed("untraced")


def test_constant():
    calls = []

    @_compat.constant
    def probe(n: int) -> int:
        calls.append(n)
        return n + 1

    compiled = torch.compile(lambda x: x * probe(2), backend="eager", fullgraph=True)
    assert [compiled(torch.ones(1)).item() for _ in range(3)] == [3.0] * 3, changed("constant")
    assert len(calls) == 1, changed("constant")


def test_is_compiled():
    plain, called = nn.Linear(1, 1), nn.Linear(1, 1)
    called.compile(backend="eager")
    assert not _compat.is_compiled(plain), changed("is_compiled")
    assert _compat.is_compiled(called), changed("is_compiled")
    assert _compat.is_compiled(torch.compile(plain, backend="eager")), changed("is_compiled")


def test_choose_branches(monkeypatch):
    monkeypatch.setattr(torch, "cond", torch.cond)
    _compat.choose_branches(lambda: True)
    x, called = torch.ones(2), []
    branches = (lambda x: called.append("true") or x + 1), (lambda x: called.append("false") or x)
    for predicate in (x.sum() > 0, True):
        assert torch.equal(torch.cond(predicate, *branches, (x,)), x + 1)
    assert called == ["true", "true"], changed("choose_branches")


def test_compile_flex_attention_in(monkeypatch):
    module = importlib.import_module("torch.nn.attention.flex_attention")
    monkeypatch.setattr(module, "setup_compilation_env", module.setup_compilation_env)
    entered, x = [], torch.ones(1, 1, 16, 4)

    @contextmanager
    def context():
        entered.append(torch.compiler.is_compiling())
        yield

    _compat.compile_flex_attention_in(context)
    module.flex_attention(x, x, x)
    assert entered == [False], changed("compile_flex_attention_in")


def test_without_modes():
    """What torch.compile refuses within modes."""
    run = torch.compile(lambda x: x + 1, backend="eager", fullgraph=True)
    with Counted(), torch.overrides.BaseTorchFunctionMode():
        with _compat.without_modes():
            assert run(torch.ones(1)).item() == 2, changed("without_modes")
        assert not Counted.seen, changed("without_modes")
        assert torch._C._len_torch_function_stack() == 1, changed("without_modes")
        torch.ones(1)
    assert Counted.seen, changed("without_modes")


class Counted(_compat.DispatchMode):
    seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        Counted.seen += 1
        return func(*args, **(kwargs or {}))


def test_check_before_tracing(monkeypatch):
    monkeypatch.setattr(torch.fx.Tracer, "trace", torch.fx.Tracer.trace)
    roots = []
    _compat.check_before_tracing(roots.append)
    model = nn.Linear(2, 2)
    torch.fx.symbolic_trace(model)
    assert roots == [model], changed("check_before_tracing")


def test_never_traced_first():
    @_compat.never_traced_first
    def inner():
        return torch.compiler.is_compiling()

    def outer(x, broken):
        if broken:
            torch._dynamo.graph_break()
        return x + inner()

    torch._dynamo.reset()
    results = [torch.compile(outer, backend="eager")(torch.zeros(1), broken) for broken in (0, 1)]
    assert torch.compile(inner, backend="eager")() is False, changed("never_traced_first")
    assert results == [1, 1], changed("never_traced_first")  # within another it is traced


def test_show_to_modes():
    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, inputs=(), options=None):
            return function(*inputs, **(options or {})) + 1

    def run(x):
        with Mode():
            return nn.functional.hardswish(x)

    _compat.show_to_modes([nn.functional.hardswish])
    torch._dynamo.reset()
    x = torch.ones(2)
    assert torch.equal(torch.compile(run, backend="eager")(x), run(x)), changed("show_to_modes")


def test_traced_nodes():
    class Seen(_compat.DispatchMode):
        def __torch_dispatch__(self, func, types, inputs=(), options=None):
            operators.append(_compat.operator_name(func))
            return func(*inputs, **(options or {}))

    operators = []

    @_compat.constant
    def look():
        for node in _compat.traced_nodes():
            nodes.append(node)
            node.repeat(Seen())

    def run(x):
        y = torch.cdist(x, x)
        look()
        y.add_(1)
        look()
        return torch.utils.checkpoint.checkpoint(torch.tanh, y, use_reentrant=False)

    nodes = []
    torch._dynamo.reset()
    torch.compile(run, backend="eager", fullgraph=True)(torch.ones(3, 2))
    names = [name for _, name in operators if name not in ("detach", "clone")]
    assert names == ["_cdist_forward", "add_"], changed("traced_nodes")
    assert [node.operator for node in nodes] == [None, None], changed("traced_nodes")
    assert all(__file__ in node.stack for node in nodes), changed("traced_nodes")
