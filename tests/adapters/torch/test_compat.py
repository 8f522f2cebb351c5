"""Contracts of the private API of PyTorch that `qemu_swalp_torch._compat` touches.

A failure here says that this release of PyTorch changed an item: mend that item, and nothing else.
"""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
import qemu_swalp_torch
import torch
from qemu_swalp_torch import _compat
from torch import nn

from qemu_swalp.interop.torch import untraced

PACKAGE = Path(qemu_swalp_torch.__file__).parent
NAMED_TUPLES = {"_asdict", "_fields", "_make", "_replace"}


def changed(item: str) -> str:
    return f"PyTorch {torch.__version__} changed what qemu_swalp_torch._compat.{item} relies on"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def names_of_ours(trees: list[ast.Module]) -> set[str]:
    """Private names that the package itself defines: functions, classes, modules, attributes."""
    ours = set(NAMED_TUPLES) | {path.stem for path in PACKAGE.rglob("*.py")}
    for node in (node for tree in trees for node in ast.walk(tree)):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                ours.add(name)
            case ast.Attribute(attr=name, value=ast.Name(id="self"), ctx=ast.Store()):
                ours.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                ours.add(name)
    return ours


def private_uses(tree: ast.Module, ours: set[str]) -> Iterator[str]:
    """Private names of others that a file imports, reads as attributes, or asks for by strings."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                parts = [part for alias in names for part in alias.name.split(".")]
            case ast.ImportFrom(module=module, names=names, level=0):
                if (module or "").startswith("qemu_swalp"):
                    continue
                parts = [*(module or "").split("."), *(alias.name for alias in names)]
            case ast.Attribute(attr=name):
                parts = [name]
            case ast.Call(func=ast.Name(id="getattr" | "hasattr" | "setattr" | "delattr")):
                parts = [str(a.value) for a in node.args[1:2] if isinstance(a, ast.Constant)]
            case _:
                continue
        yield from (part for part in parts if is_private(part) and part not in ours)


def private_uses_by_file(package: Path) -> dict[str, list[str]]:
    trees = {path: ast.parse(path.read_text()) for path in sorted(package.rglob("*.py"))}
    ours = names_of_ours(list(trees.values()))
    uses = {str(p.relative_to(package)): list(private_uses(t, ours)) for p, t in trees.items()}
    return {file: found for file, found in uses.items() if found}


def test_private_api_is_touched_in_one_place():
    assert {Path(file).parts[0] for file in private_uses_by_file(PACKAGE)} == {"_compat"}


@pytest.mark.parametrize(
    "source",
    [
        "import torch._dynamo",
        "from torch._C import Graph",
        "from torch.nn.modules.conv import _ConvNd",
        "optimizer._optimizer_step_post_hooks.clear()",
        "torch._C._current_graph_task_id()",
        "getattr(module, '_compiled_call_impl', None)",
    ],
)
def test_the_search_knows_private_api(source):
    assert list(private_uses(ast.parse(source), NAMED_TUPLES))


def test_base_classes():
    for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.LazyConv2d):
        assert issubclass(kind, _compat.ConvNd), changed("ConvNd")
    for kind in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d):
        assert issubclass(kind, _compat.ConvTransposeNd), changed("ConvTransposeNd")
    assert not issubclass(nn.Conv2d, _compat.ConvTransposeNd), changed("ConvTransposeNd")
    for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm):
        assert issubclass(kind, _compat.BatchNorm), changed("BatchNorm")
    assert issubclass(nn.InstanceNorm2d, _compat.NormBase), changed("NormBase")
    assert issubclass(_compat.BatchNorm, _compat.NormBase), changed("NormBase")
    for kind in (nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.LPPool2d):
        assert issubclass(kind, _compat.AVERAGE_POOLS), changed("AVERAGE_POOLS")
    assert not issubclass(nn.MaxPool2d, _compat.AVERAGE_POOLS), changed("AVERAGE_POOLS")


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


def test_groups():
    """In two processes they are tested by `test_distributed_scales`."""
    ddp = nn.parallel.DistributedDataParallel
    assert ddp._active_ddp_module is None, changed("groups_of_ddp")
    assert _compat.groups_of_ddp() == [], changed("groups_of_ddp")
    importlib.import_module("torch.distributed.fsdp")
    assert _compat.groups_of_fsdp(nn.Linear(2, 2)) == [], changed("groups_of_fsdp")


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


def test_backward_id():
    ids = []

    class Probe(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

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


def test_is_compiled():
    plain, called = nn.Linear(1, 1), nn.Linear(1, 1)
    called.compile(backend="eager")
    assert not _compat.is_compiled(plain), changed("is_compiled")
    assert _compat.is_compiled(called), changed("is_compiled")
    assert _compat.is_compiled(torch.compile(plain, backend="eager")), changed("is_compiled")


def test_module_hooks():
    module = nn.Linear(1, 1)

    def hook(*_: object) -> None: ...

    before, after = module.register_forward_pre_hook(hook), module.register_forward_hook(hook)
    assert _compat.forward_pre_hooks(module) == {before.id: hook}, changed("forward_pre_hooks")
    assert _compat.forward_hooks(module) == {after.id: hook}, changed("forward_hooks")
    del _compat.forward_pre_hooks(module)[before.id]
    before.remove()
    assert not _compat.forward_pre_hooks(module), changed("forward_pre_hooks")


def test_has_step_hooks():
    class Without(torch.optim.Optimizer):
        def __init__(self):
            self.param_groups = []

    with_hooks = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
    assert _compat.has_step_hooks(with_hooks), changed("has_step_hooks")
    assert not _compat.has_step_hooks(Without()), changed("has_step_hooks")
    with pytest.raises(AttributeError):
        Without().register_step_post_hook(print)


def test_run_first_after_step():
    order = []
    opt = torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)
    opt.register_step_post_hook(lambda *_: order.append("earlier"))
    handle = opt.register_step_post_hook(lambda *_: order.append("ours"))
    _compat.run_first_after_step(opt, handle)
    opt.step()
    assert order == ["ours", "earlier"], changed("run_first_after_step")


def test_run_first_before_step():
    order = []
    opt = torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)
    opt.register_step_pre_hook(lambda *_: order.append("earlier"))
    handle = opt.register_step_pre_hook(lambda *_: order.append("ours"))
    _compat.run_first_before_step(opt, handle)
    opt.step()
    assert order == ["ours", "earlier"], changed("run_first_before_step")


def test_keep_step_hooks():
    order = []
    opt = torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)
    opt.register_step_post_hook(lambda *_: order.append("theirs"))
    handle = opt.register_step_post_hook(lambda *_: order.append("ours"))
    copy = object.__new__(type(opt))
    copy.__dict__ |= opt.__dict__
    _compat.keep_step_hooks(copy, [handle])
    copy.step()
    assert order == ["ours"], changed("keep_step_hooks")
    opt.step()
    assert order == ["ours", "theirs", "ours"], changed("keep_step_hooks")


def test_a_pre_hook_may_replace_the_optimizer_that_steps():
    """`optim.float32_step` rests on it: documented of the arguments, the first among them."""
    p, q = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    p.grad, q.grad = torch.ones(1), torch.ones(1)
    opt, other = torch.optim.SGD([p], 1.0), torch.optim.SGD([q], 1.0)
    seen = []
    opt.register_step_pre_hook(lambda o, args, kwargs: ((other, *args[1:]), kwargs))
    opt.register_step_post_hook(lambda o, args, kwargs: seen.append((o, args[0])))
    opt.step()
    item = "profile_hook_step: what pre-hooks return"
    assert (p.item(), q.item()) == (1, 0), changed(item)
    assert [(a is opt, b is other) for a, b in seen] == [(True, True)], changed(item)


def test_complete_lbfgs():
    p = nn.Parameter(torch.ones(2))
    opt = torch.optim.LBFGS([p])
    assert opt._params is opt.param_groups[0]["params"], changed("complete_lbfgs")
    del opt._params, opt._numel_cache
    _compat.complete_lbfgs(opt)

    def closure() -> torch.Tensor:
        opt.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    opt.step(closure)
    assert p.abs().max() < 1, changed("complete_lbfgs")


def test_version_of():
    x = torch.zeros(2)
    before = _compat.version_of(x)
    x.add_(1)
    assert _compat.version_of(x) == before + 1, changed("version_of")


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


def test_without_interception():
    class Refuse(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, inputs=(), options=None):
            raise AssertionError(changed("without_interception"))

    with Refuse(), _compat.without_interception():
        torch.ones(2).sum()


def test_parameters_of():
    class Found(nn.Linear):
        def forward(self, x):
            return [x is p for p in _compat.parameters_of(self)]

    given = torch.ones(1, 1)
    model = Found(1, 1)
    found = torch.func.functional_call(model, {"weight": given}, given)
    assert found == [True, False], changed("parameters_of")


def test_shard_window():
    import torch.distributed as distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        x = distribute_tensor(torch.zeros(3, 2), init_device_mesh("cpu", (1,)), [Shard(0)])
        assert _compat.shard_window(x) == (slice(0, 3), slice(0, 2)), changed("shard_window")
    finally:
        distributed.destroy_process_group()


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


def test_what_the_core_touches():
    """`arrays/_torch.py`, `kernels/backends/torch.py` and `interop/torch.py`, which see tensors
    without this adapter.
    """
    from torch._compile import _disable_dynamo
    from torch.utils._python_dispatch import TorchDispatchMode

    class Mode(TorchDispatchMode):
        pass

    depth = torch._C._len_torch_dispatch_stack
    with Mode():
        assert depth() == 1, changed("_len_torch_dispatch_stack")
    assert depth() == 0, changed("_len_torch_dispatch_stack")
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    seen = []
    torch.func.vmap(lambda x: seen.append(wrapped(x)) or x)(torch.zeros(2))
    assert seen == [True], changed("is_functorch_wrapped_tensor")
    assert not wrapped(torch.zeros(2)), changed("is_functorch_wrapped_tensor")
    active = []
    torch.func.grad(lambda x: active.append(_compat.transforms_are_active()) or x)(torch.ones(()))
    torch.func.vmap(lambda x: active.append(_compat.transforms_are_active()) or x)(torch.ones(2))
    assert active == [True, True], changed("transforms_are_active")
    assert not _compat.transforms_are_active(), changed("transforms_are_active")
    assert _disable_dynamo(lambda x: x + 1)(1) == 2, changed("_disable_dynamo")


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

    class Probe(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

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


def test_check_before_replicating(monkeypatch):
    name, checked = "_replicate_for_data_parallel", []
    monkeypatch.setattr(nn.Module, name, getattr(nn.Module, name))
    _compat.check_before_replicating(checked.append)
    model = nn.Linear(2, 2)
    replica = getattr(model, name)()
    assert checked == [model], changed("check_before_replicating")
    assert not replica._parameters, changed("check_before_replicating")


def test_choose_branches(monkeypatch):
    monkeypatch.setattr(torch, "cond", torch.cond)
    _compat.choose_branches(lambda: True)
    x, called = torch.ones(2), []
    branches = (lambda x: called.append("true") or x + 1), (lambda x: called.append("false") or x)
    for predicate in (x.sum() > 0, True):
        assert torch.equal(torch.cond(predicate, *branches, (x,)), x + 1)
    assert called == ["true", "true"], changed("choose_branches")


def test_is_higher_order():
    assert _compat.is_higher_order(torch.ops.higher_order.cond), changed("is_higher_order")
    assert not _compat.is_higher_order(torch.ops.aten.mm.default), changed("is_higher_order")


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
