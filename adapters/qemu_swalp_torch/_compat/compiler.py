"""torch.compile and torch.fx: what they trace, and how they are told."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.overrides import _pop_mode_temporarily
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from .operators import without_interception

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


def is_compiled(module: nn.Module) -> bool:
    """Whether `torch.compile` returned the module, or `module.compile()` was called on it."""
    wrapper = type(module)
    return (wrapper.__module__, wrapper.__name__) == (
        "torch._dynamo.eval_frame",
        "OptimizedModule",
    ) or getattr(module, "_compiled_call_impl", None) is not None


def show_to_modes(functions: Iterable[Callable[..., Any]]) -> None:
    """From now on torch.compile hands these functions to a `TorchFunctionMode`; some it does not,
    `F.sigmoid` and `F.hardswish` for instance.
    """
    from torch._dynamo.variables.torch import get_overridable_functions

    get_overridable_functions().update(functions)


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


def choose_branches(at_once: Callable[[], bool]) -> None:
    """From now on `torch.cond` calls the branch that a tensor chooses where `at_once()` says so,
    outside of graphs, in place of compiling both.
    """
    cond = torch.cond

    @functools.wraps(cond)
    def chosen(pred: Any, true_fn: Any, false_fn: Any, operands: Any = ()) -> Any:
        if torch.compiler.is_compiling() or not isinstance(pred, Tensor) or not at_once():
            return cond(pred, true_fn, false_fn, operands)
        return cond(bool(pred), true_fn, false_fn, operands)

    torch.cond = chosen


def compile_flex_attention_in(context: Callable[[], AbstractContextManager[None]]) -> None:
    """From now on `flex_attention` that is called outside of graphs, where it compiles itself, does
    so within `context()`.
    """
    from torch.nn.attention import flex_attention

    module: Any = flex_attention
    environment = module.setup_compilation_env

    @contextmanager
    def within() -> Iterator[Any]:
        with context(), environment() as backend:
            yield backend

    module.setup_compilation_env = within


@contextmanager
def without_modes() -> Iterator[None]:
    """A context that modes of dispatch and of functions do not see, so that code can be compiled
    within.
    """
    with ExitStack() as stack:
        stack.enter_context(_disable_current_modes())
        for _ in range(torch._C._len_torch_function_stack()):
            stack.enter_context(_pop_mode_temporarily())
        yield


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
