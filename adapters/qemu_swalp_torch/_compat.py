"""Private API of PyTorch: all that this adapter touches of it, and nothing of it anywhere else.

Each item says what it is for. All were seen in PyTorch 2.13; for each there is a contract test in
`tests/adapters/torch/test_compat.py`, which fails where a release changes it.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import nullcontext
from typing import Any, NamedTuple, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator, OpOverload, OpOverloadPacket
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AvgPoolNd, _LPPoolNd
from torch.optim import Optimizer
from torch.utils import checkpoint
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

ConvNd: TypeAlias = _ConvNd
"""Base class of `nn.Conv1d` to `nn.Conv3d`, lazy and transposed ones included."""

ConvTransposeNd: TypeAlias = _ConvTransposeNd
"""Base class of `nn.ConvTranspose1d` to `nn.ConvTranspose3d`."""

BatchNorm: TypeAlias = _BatchNorm
"""Base class of `nn.BatchNorm1d` to `nn.BatchNorm3d`, `nn.SyncBatchNorm` included."""

NormBase: TypeAlias = _NormBase
"""Base class of these and of `nn.InstanceNorm1d` to `nn.InstanceNorm3d`."""

AVERAGE_POOLS = (_AvgPoolNd, _AdaptiveAvgPoolNd, _LPPoolNd)
"""Base classes of the pooling layers that compute means."""

WRAPPED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What `torch.compile`, FSDP and activation checkpointing call the module that they wrap."""

Function = TypeVar("Function", bound=Callable[..., object])


def constant(function: Function) -> Function:
    """`torch.compile` runs the function once and uses its result as a constant. What it raises
    arrives as it was raised, and not within an error of the compiler.
    """

    @functools.wraps(function)
    def run(*inputs: Any, **options: Any) -> Any:
        try:
            return function(*inputs, **options)
        except Exception as error:
            if torch._guards.CompileContext.try_get() is None:
                raise
            raise _passed_by_compiler(error) from None

    # All that `torch.compiler.assume_constant_result` sets, once it has imported the compiler.
    run._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return run  # type: ignore[return-value]


def _passed_by_compiler(error: Exception) -> Exception:
    """The same error, of a type that is one of its own and one which torch.compile lets through."""
    from torch._dynamo.exc import ShortenTraceback

    kind = type(error)
    both: Any = type(kind.__name__, (ShortenTraceback, kind), {"__module__": kind.__module__})
    passed: Exception = both(str(error), first_useful_frame=None)
    return passed


def never_traced_first(function: Function) -> Function:
    """`torch.compile` traces the function within others, but begins no graph in it or in what it
    calls: called between two graphs, it runs as Python.
    """
    frames: Any = torch._C._dynamo.eval_frame
    strategy = frames._FrameExecStrategy(frames._FrameAction.SKIP, frames._FrameAction.SKIP)
    frames.set_code_exec_strategy(function.__code__, strategy)
    return function


def backward_id() -> int:
    """Number of the backward pass that runs in this thread; -1 outside of any."""
    return torch._C._current_graph_task_id()


def is_compiled(module: nn.Module) -> bool:
    """Whether `torch.compile` returned the module, or `module.compile()` was called on it."""
    wrapper = type(module)
    return (wrapper.__module__, wrapper.__name__) == (
        "torch._dynamo.eval_frame",
        "OptimizedModule",
    ) or getattr(module, "_compiled_call_impl", None) is not None


def forward_hooks(module: nn.Module) -> MutableMapping[int, Callable[..., Any]]:
    """The forward hooks of a module, by the ids of their handles."""
    return module._forward_hooks


def forward_pre_hooks(module: nn.Module) -> MutableMapping[int, Callable[..., Any]]:
    """The forward pre-hooks of a module, by the ids of their handles."""
    return module._forward_pre_hooks


def call_impl_of(module: nn.Module) -> Callable[..., Any]:
    """The method of a module's class that runs its hooks and its forward."""
    return type(module)._call_impl


def stand_in(module: nn.Module, call: Callable[..., Any] | None) -> None:
    """Call that in place of `call_impl_of(module)`; None: that again. Copies of the module do so
    too.
    """
    if call is None:
        module.__dict__.pop("_call_impl", None)
    else:
        module.__dict__["_call_impl"] = call


def has_step_hooks(optimizer: Optimizer) -> bool:
    """Whether an optimizer has hooks around its step: not one whose class left out
    `Optimizer.__init__`.
    """
    return "_optimizer_step_post_hooks" in optimizer.__dict__


def run_first_after_step(optimizer: Optimizer, handle: RemovableHandle) -> None:
    """Move a hook to the front of those that run after the optimizer's step."""
    optimizer._optimizer_step_post_hooks.move_to_end(handle.id, last=False)  # type: ignore[attr-defined]


def run_first_before_step(optimizer: Optimizer, handle: RemovableHandle) -> None:
    """Move a hook to the front of those that run before the optimizer's step."""
    optimizer._optimizer_step_pre_hooks.move_to_end(handle.id, last=False)  # type: ignore[attr-defined]


def keep_step_hooks(optimizer: Optimizer, handles: Iterable[RemovableHandle]) -> None:
    """Give a shallow copy of an optimizer these of its step hooks alone; the original keeps all."""
    ids = {handle.id for handle in handles}
    for name in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):
        hooks = getattr(optimizer, name)
        setattr(optimizer, name, OrderedDict((i, hook) for i, hook in hooks.items() if i in ids))


def complete_lbfgs(optimizer: Optimizer) -> None:
    """Give a copy of LBFGS the attributes that PyTorch's copies lack and its step reads."""
    if isinstance(optimizer, torch.optim.LBFGS) and not hasattr(optimizer, "_params"):
        optimizer._params, optimizer._numel_cache = optimizer.param_groups[0]["params"], None


def is_operator(function: Callable[..., Any]) -> bool:
    """Whether a function is of `torch.ops`."""
    return type(function) in (OpOverload, OpOverloadPacket)


def operator_name(function: Callable[..., Any]) -> tuple[str, str] | None:
    """Library and name of an operator or of an overload of it: ("aten", "mm") of
    `torch.ops.aten.mm` and of `torch.ops.aten.mm.default`; None of other functions.
    """
    if isinstance(function, OpOverload):
        function = function.overloadpacket
    if not isinstance(function, OpOverloadPacket):
        return None
    library, _, name = str(function._qualified_op_name).partition("::")
    return library, name


def parameters_of(module: nn.Module) -> Iterable[Tensor | None]:
    """The parameters that a module itself holds, or what `torch.func.functional_call` has put in
    their place.
    """
    return module._parameters.values()


DispatchMode: TypeAlias = TorchDispatchMode
"""Base class of contexts that see the operators which PyTorch dispatches."""

without_interception = torch._C.DisableTorchFunction
"""A context in which neither tensor subclasses nor modes see the functions that are called."""


def lost_weight() -> Any:
    """The `weight` of the call of `F.l1_loss` that a `TorchFunctionMode` is handling, which
    PyTorch 2.13 does not pass on to modes.
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not torch.nn.functional.l1_loss.__code__:
        frame = frame.f_back
    return None if frame is None else frame.f_locals["weight"]


def check_before_tracing(check: Callable[[Any], None]) -> None:
    """From now on `torch.fx.symbolic_trace`, and whoever else has a `torch.fx.Tracer`, calls
    `check(root)` before it traces a module or a function; it calls no hook of the module.
    """
    trace = torch.fx.Tracer.trace

    @functools.wraps(trace)
    def checked(tracer: Any, root: Any, *inputs: Any, **options: Any) -> Any:
        check(root)
        return trace(tracer, root, *inputs, **options)

    tracer_type: Any = torch.fx.Tracer
    tracer_type.trace = checked


def show_to_modes(functions: Iterable[Callable[..., Any]]) -> None:
    """From now on torch.compile hands these functions to a `TorchFunctionMode`; some it does not,
    `F.sigmoid` and `F.hardswish` for instance.
    """
    from torch._dynamo.variables.torch import get_overridable_functions

    get_overridable_functions().update(functions)


class TracedNode(NamedTuple):
    """A call in the graph that torch.compile is tracing."""

    operator: str | None
    """Its name, if it is a higher-order one."""
    repeat: Callable[[TorchDispatchMode], None]
    """Repeats it within a mode, on copies of its inputs, which have shapes and no numbers."""
    stack: str
    """Where in Python it stands, as text."""
    children: tuple[TracedNode, ...] = ()
    """Calls in its subgraphs."""


def traced_nodes() -> Iterator[TracedNode]:
    """Those that torch.compile has traced since the last call of this function."""
    from torch._dynamo.symbolic_convert import InstructionTranslator

    output = InstructionTranslator.current_tx().output
    graph = output.current_tracer.graph
    seen = TRACED.setdefault(graph, set())
    for node in list(graph.nodes):
        if node.name not in seen:
            seen.add(node.name)
            if node.op in ("call_function", "call_method"):
                yield _traced_node(node, output)


TRACED: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()
"""Graph → names of the nodes that were seen."""


def _traced_node(node: Any, output: Any) -> TracedNode:
    children = []
    for part in node.all_input_nodes:
        graph = output.nn_modules.get(part.target) if part.op == "get_attr" else None
        if isinstance(graph, torch.fx.GraphModule):
            calls = [n for n in graph.graph.nodes if n.op in ("call_function", "call_method")]
            children += [_traced_node(n, output) for n in calls]
    operator = node.target.__name__ if isinstance(node.target, HigherOrderOperator) else None

    def repeat(mode: TorchDispatchMode) -> None:
        env = output.fake_mode.shape_env
        ignored = nullcontext() if env is None else env.ignore_fresh_unbacked_symbols()
        with output.fake_mode, ignored, torch.no_grad(), without_interception():
            args, options = torch.fx.node.map_arg((node.args, node.kwargs), _traced_value)
            method = isinstance(node.target, str)
            function = getattr(args[0], node.target) if method else node.target
            with mode:
                function(*args[method:], **options)

    return TracedNode(operator, repeat, node.stack_trace or "", tuple(children))


def _traced_value(node: Any) -> Any:
    value = node.meta.get("example_value")
    return value.detach().clone() if isinstance(value, Tensor) else value


def replace_checkpointed(replaced: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """From now on `torch.utils.checkpoint` recomputes `replaced(function)` for each function that
    it is given.
    """
    module: Any = checkpoint
    generator = module._checkpoint_without_reentrant_generator
    forward = module.CheckpointFunction.forward

    @functools.wraps(generator)
    def begin(function: Any, *inputs: Any, **options: Any) -> Any:
        return generator(replaced(function), *inputs, **options)

    @functools.wraps(forward)
    def begin_reentrant(ctx: Any, function: Any, *inputs: Any) -> Any:
        return forward(ctx, replaced(function), *inputs)

    module._checkpoint_without_reentrant_generator = begin
    module.CheckpointFunction.forward = staticmethod(begin_reentrant)


def native_functions() -> tuple[Any, ...]:
    """Where the functions are that those of `torch.nn.functional` and `torch.linalg` call."""
    return torch._C._nn, torch._C._linalg, torch._C._VariableFunctions  # type: ignore[attr-defined]


def transforms_are_active() -> bool:
    """Whether a transform of `torch.func` is running."""
    return torch._C._are_functorch_transforms_active()


def is_transformed(x: Tensor) -> bool:
    """Whether a tensor stands for others in a transform of `torch.func`."""
    return torch._C._functorch.is_functorch_wrapped_tensor(x)


def version_of(x: Tensor) -> int:
    """How often a tensor was written in place, as autograd counts."""
    return x._version


def safe_softmax(scores: Tensor) -> Tensor:
    """Softmax over the last axis; rows of -infinity alone give zeros."""
    result: Tensor = torch.ops.aten._safe_softmax(scores, -1)
    return result


def groups_of_ddp() -> list[Any]:
    """The process group of the `DistributedDataParallel` whose forward runs, if one does."""
    ddp: Any = torch.nn.parallel.DistributedDataParallel._get_active_ddp_module()  # type: ignore[no-untyped-call]
    return [] if ddp is None else [ddp.process_group]


def groups_of_fsdp(module: nn.Module) -> list[Any]:
    """The process groups of each dimension of the mesh over which `fully_shard` divides batches."""
    if "torch.distributed.fsdp" not in sys.modules:
        return []
    from torch.distributed.fsdp._fully_shard._fsdp_state import _get_module_fsdp_state

    state = _get_module_fsdp_state(module)
    groups = [] if state is None else state._fsdp_param_groups
    return groups[0].mesh_info.mesh.get_all_groups() if groups else []


def shard_window(x: Any) -> tuple[slice, ...]:
    """Where the elements of this rank's shard of a DTensor stand in the global tensor."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(x.shape, x.device_mesh, x.placements)
    return tuple(slice(start, start + length) for start, length in zip(offset, shape, strict=True))
