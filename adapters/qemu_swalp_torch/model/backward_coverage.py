"""What a backward computes in float though the recipe asks for rounding: found, and told.

The gradients of what is rounded are ours. All else that a backward runs is code of others: autograd
Functions, hooks on modules, tensors and nodes, gradients of PyTorch's own. The first backward of a
watched forward is watched as well, and again where hooks on backwards have been added. New ones on
parameters are looked for before each backward, since those of compiled models run outside of
graphs.
"""

from __future__ import annotations

import functools
import inspect
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch.utils.hooks import RemovableHandle

from .._compat import (
    DispatchMode,
    backward_hooks,
    function_running_in,
    module_hooked_in,
    never_traced_first,
    node_number,
    parameter_hooks,
    replace_backward,
    running_node,
    without_interception,
)
from .coverage import (
    OURS,
    OWN_FILES,
    Report,
    UncoveredError,
    flops_of,
    is_floating,
    kinds_of,
    tell,
)
from .frames import FRAMES
from .origins import Origins, Place

TRIES = 8
"""How many forwards are watched at most until one is met that has a backward."""

NOT_OF_MODELS = ("torch.optim", "torch.distributed", f"{OURS}.optim")
"""Whose products are none of a model's: optimizers and communication, which hooks may call."""


class Expected:
    """A forward that was watched, and whose backward is to come."""

    def __init__(self, scope: Any, origins: Origins) -> None:
        self.scope, self.origins = weakref.ref(scope), origins
        self.missed = 0
        """How many backwards reached none of its nodes."""

    def place(self, node: Any, module: Any) -> Place | None:
        """Where the model made a node, or has the module or parameter of a hook."""
        parameter = getattr(node, "variable", None)
        if module is None and parameter is None:
            return self.origins.find(node_number(node))
        return self.places.get(id(parameter if module is None else module))

    @cached_property
    def places(self) -> dict[int, Place]:
        """id of a module or parameter of the model → where it is."""
        scope = self.scope()
        return {} if scope is None else scope.places()


class HookedParameters(Expected):
    """Parameters of a scope's module that have got hooks since the last backward."""

    def __init__(self, scope: Any, parameters: Iterable[Any]) -> None:
        super().__init__(scope, Origins())
        self.missed = TRIES  # one backward is enough
        self.parameters = {id(parameter) for parameter in parameters}

    def place(self, node: Any, module: Any) -> Place | None:
        """Of a hook on one of them."""
        if module is not None or id(getattr(node, "variable", None)) not in self.parameters:
            return None
        scope = self.scope()
        return None if scope is None else scope.place


SCOPES: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
"""All that there are, by their ids. Threads that make some leave a list of `valuerefs` alone."""


class ExpectedForwards(threading.local):
    """Of this thread, at most one of each outermost scope."""

    def __init__(self) -> None:
        self.forwards: list[Expected] = []
        self.hooks = -1
        """How many hooks had ever been made when the last backward began."""


EXPECTED = ExpectedForwards()


def expect(scope: Any, origins: Origins) -> None:
    """Watch the backwards of the forward that has just ended."""
    scope.tries -= 1
    scope.hooks = RemovableHandle.next_id, frozenset(backward_hooks(scope.module))
    if origins:
        EXPECTED.forwards = [*_of_others(scope), Expected(scope, origins)]


def is_wanted(scope: Any) -> bool:
    """Whether the forward that begins is to be watched for the sake of its backward."""
    if not torch.is_grad_enabled():
        return False
    counted, known = scope.hooks
    if counted != RemovableHandle.next_id:  # it counts all hooks that there ever were
        present = frozenset(backward_hooks(scope.module))
        scope.hooks = RemovableHandle.next_id, present
        if present - known:
            scope.tries, scope.backward = TRIES, None
    if scope.backward is not None:
        if EXPECTED.forwards:
            EXPECTED.forwards = _of_others(scope)
        return False
    missed = (f.missed for f in EXPECTED.forwards if f.scope() is scope)
    return scope.tries > 0 and next(missed, 1) > 0


def _of_others(scope: Any) -> list[Expected]:
    return [f for f in EXPECTED.forwards if f.scope() not in (None, scope)]


def _hooked_parameters(expected: list[Expected]) -> Iterator[HookedParameters]:
    """Those that none of the expected forwards knows."""
    EXPECTED.hooks = RemovableHandle.next_id
    known = {place for forward in expected for place in forward.places}
    scopes: Iterator[Any] = (ref() for ref in SCOPES.valuerefs())
    for scope in [scope for scope in scopes if getattr(scope, "policy", None)]:
        parameters = [*scope.module.parameters(recurse=False)]
        present = frozenset(hook for p in parameters for hook in parameter_hooks(p))
        if present - scope.parameter_hooks and not known.issuperset(map(id, parameters)):
            yield HookedParameters(scope, parameters)
        scope.parameter_hooks = present


def watch_backwards() -> None:
    """From now on backwards of forwards that are expected to have one are watched."""
    replace_backward(_watching)


def _watching(run: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run)
    @never_traced_first
    def watching(*inputs: Any, **options: Any) -> Any:
        if FRAMES.stack or torch.compiler.is_compiling():
            return run(*inputs, **options)
        expected = EXPECTED.forwards
        if EXPECTED.hooks != RemovableHandle.next_id:
            expected = [*expected, *_hooked_parameters(expected)]
        if not expected:
            return run(*inputs, **options)
        EXPECTED.forwards = []  # a backward within this one is part of it
        with BackwardWatch(expected) as watch:
            result = run(*inputs, **options)
        for forward in expected:
            forward.missed += forward not in watch.reports
        EXPECTED.forwards = [f for f in expected if f.missed < TRIES]
        for forward, report in watch.reports.items():
            _end(forward, report)
        return result

    return watching


def _end(forward: Expected, report: Report) -> None:
    """Tell what was found in a backward that reached the forward."""
    scope = forward.scope()
    if scope is None:
        return
    try:
        tell(report, scope.policy, "in the backward")
    except UncoveredError:  # the next forward and backward tell it again
        scope.report = scope.backward = None
        scope.parameter_hooks, EXPECTED.hooks = frozenset(), -1
        EXPECTED.forwards = _of_others(scope)
        raise
    if isinstance(forward, HookedParameters):
        return
    scope.backward = report if scope.backward is None else scope.backward + report


class BackwardWatch(DispatchMode):  # type: ignore[no-untyped-call]
    """Notes the products of a backward, and the elementwise operations of autograd Functions."""

    supports_higher_order_operators = True

    def __init__(self, expected: list[Expected]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.expected = expected
        self.reports: dict[Expected, Report] = {}
        """Of the forwards that are reached."""
        for forward in expected:
            forward.origins.add(None, None)  # what was made since belongs to none of its modules

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with without_interception():
            result = func(*args, **(kwargs or {}))
            frame, node = FRAMES.stack[-1] if FRAMES.stack else None, running_node()
            for forward in self.expected:
                forward.origins.add(frame, node)
            if frame is None and node is not None:
                self._note(node, func, args, kwargs or {}, result)
        return result

    def _note(self, node: Any, func: Any, args: Any, options: Any, result: Any) -> None:
        kinds = kinds_of(func, args, options) if is_floating(result) else {}
        caller = _caller() if kinds else Caller()
        for forward in self.expected:
            place = forward.place(node, caller.module)
            if place is None:
                continue
            report = self.reports.setdefault(forward, Report())
            if caller.is_other:
                continue
            if "product" in kinds and place.products:
                flops = flops_of(func, args, options, result)
                if caller.is_ours:
                    report.rounded[place.name] += flops
                else:
                    by = caller.words or f"the gradient {node.name()}"
                    report.uncovered[place.name, f"{kinds['product']} of {by}"] += flops
            if "operation" in kinds and place.elementwise and caller.function:
                report.operations[place.name, f"{kinds['operation']} of {caller.words}"] += 1


class Caller(NamedTuple):
    """Whose code computes in a backward."""

    is_ours: bool = False
    is_other: bool = False
    """Whether it is of `NOT_OF_MODELS`."""
    function: str | None = None
    """The autograd Function, if it is one of the user's."""
    hook: FrameType | None = None
    module: Any = None
    """What the hook is on, if it is a module."""

    @property
    def words(self) -> str:
        """What it is called in errors."""
        if self.function is not None:
            return f"autograd.Function {self.function}"
        if self.hook is None:
            return ""
        code = self.hook.f_code
        return f"the hook {code.co_qualname} ({Path(code.co_filename).name}:{code.co_firstlineno})"


def _caller() -> Caller:
    found = Caller()
    frame: Any = inspect.currentframe()
    while frame is not None and frame.f_code.co_name != "watching":
        module, kind = frame.f_globals.get("__name__", ""), function_running_in(frame)
        if frame.f_code.co_filename.startswith(OWN_FILES):  # which runs hooks that unpack tensors
            return found._replace(is_ours=found.hook is None)
        if kind is not None and not kind.__module__.startswith((OURS, "torch.")):
            return found._replace(function=kind.__qualname__, hook=None)
        if module.startswith(NOT_OF_MODELS):
            return found._replace(is_other=True)
        if (hooked := module_hooked_in(frame)) is not None:
            return found._replace(module=hooked)
        if not module.startswith((OURS, "torch.")):
            found = found._replace(hook=frame)
        frame = frame.f_back
    return found
