"""Interception of the functions that a model calls, whoever's code calls them.

While a module is called, a `TorchFunctionMode` sees each function, method and operator of PyTorch
that is applied, in any code, registered or not. Products are computed by `products`, elementwise
operations by `arithmetic`; all else is passed on.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .._compat import (
    constant,
    is_operator,
    lost_weight,
    never_traced_first,
    show_to_modes,
    without_interception,
)
from ..tensors.call_counters import Site
from ..tensors.scripting import NotScriptable
from . import arithmetic, products
from .coverage import Report, is_watchable, watched
from .direct import DIRECT, is_plain
from .frames import FRAMES, Frame, Products, functions_of, note_weights, pass_on
from .names import known_operator
from .registry import FORWARDS, FUNCTIONS
from .traced import check_traced

Forward = Callable[..., Any]


class Interception(TorchFunctionMode):
    """Within it products and elementwise operations are rounded by the rules of the innermost
    call.
    """

    @never_traced_first
    def __torch_function__(
        self, function: Callable[..., Any], types: Any, inputs: Any = (), options: Any = None
    ) -> Any:
        return call(function, inputs, options or {})


def call(function: Callable[..., Any], inputs: Sequence[Any], options: dict[str, Any]) -> Any:
    """What a function gives under the rules of the innermost call."""
    frame = FRAMES.stack[-1]
    if function is F.l1_loss and not torch.compiler.is_compiling():
        options = {**options, "weight": lost_weight()}
    if frame.products is not None or frame.functions is not None:
        if is_operator(function) or _is_traced_python(function):
            handler = _by_name(frame, function)
        else:
            handler = products.PRODUCTS.get(function)
            if handler is None and frame.functions is not None:
                handler = arithmetic.ARITHMETIC.get(function)
        if handler is not None:
            result = handler(frame, function, *inputs, **options)
            _remember(frame, inputs, result)
            return result
    if function is Tensor.unflatten:  # torch.compile cannot trace the method within a mode
        function = torch.unflatten
    result = function(*inputs, **options)
    _remember(frame, inputs, result)
    return result


@constant
def _show_functions() -> None:
    """Before torch.compile traces a model: have it show all that is computed here."""
    show_to_modes(
        function
        for function in (*products.PRODUCTS, *arithmetic.ARITHMETIC)
        if isinstance(function, FunctionType)
    )


def _is_traced_python(function: Callable[..., Any]) -> bool:
    """Whether torch.compile traces a function written in Python, which it does not find in a table
    by its identity.
    """
    return isinstance(function, FunctionType) and torch.compiler.is_compiling()


def _by_name(frame: Frame, function: Callable[..., Any]) -> Callable[..., Any] | None:
    name = (known_operator(function) or "") if is_operator(function) else function.__name__
    handler = products.BY_NAME.get(name)
    if handler is None and frame.functions is not None:
        handler = arithmetic.BY_NAME.get(name)
    return handler


def _remember(frame: Frame, inputs: Sequence[Any], result: Any) -> None:
    if frame.products is not None:
        note_weights(inputs, result)


class ModuleScope(NotScriptable):
    """What a module has in place of its `forward`: the same, with products and elementwise
    operations intercepted.
    """

    def __init__(self, module: nn.Module, name: str) -> None:
        self.module, self.name = module, name
        scripted = isinstance(module, torch.jit.ScriptModule)
        self.before: Forward | None = module.forward if scripted else module.__dict__.get("forward")
        """What somebody else put in place of the forward of the module's class."""
        self.is_plain = is_plain(module)
        self.sites: dict[str, Any] = {}
        """Section of a recipe → its site; False where the module is excluded. Where it has none,
        or None, that of the caller counts.
        """
        self.policy: dict[str, str] = {}
        """Section of a recipe → what to do about what it does not cover."""
        self.report: Report | None = None
        """What was found in the first forward that began here."""

    @property
    def __signature__(self) -> inspect.Signature:
        """That of the forward, by which transformers' Trainer and others choose what to pass."""
        return inspect.signature(self._own)

    @property
    def __code__(self) -> Any:
        """That of the forward, by which torch.export says where a model is defined."""
        return self._own.__code__

    @property
    def _own(self) -> Any:
        if self.before is not None:
            return self.before
        return MethodType(type(self.module).forward, self.module)

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        stack = FRAMES.stack
        caller = stack[-1] if stack else None
        if caller is not None and self._is_passed(caller):
            with without_interception():  # a dozen calls within need no look at each
                result = type(self.module).forward(self.module, *inputs, **options)
                _remember(caller, inputs, result)
            return result
        frame = Frame(self.module, self.name, self._products(caller), self._functions(caller))
        if caller is not None:
            _check_traced(caller)
        elif torch.compiler.is_dynamo_compiling():
            _show_functions()
        stack.append(frame)
        try:
            if caller is not None:
                return self._forward(frame, inputs, options)
            if not self.is_watched():
                with Interception():
                    return self._forward(frame, inputs, options)
            with watched(self), Interception():
                return self._forward(frame, inputs, options)
        finally:
            stack.pop()

    @never_traced_first
    def is_watched(self) -> bool:
        """Whether a forward that begins here is the first, which is watched."""
        return self.report is None and bool(self.policy) and is_watchable()

    def sites_within(self) -> list[Any]:
        """The sites of all modules within."""
        scopes = (scope_of(module) for module in self.module.modules())
        return [site for scope in scopes if scope for site in scope.sites.values() if site]

    def _is_passed(self, caller: Frame) -> bool:
        """Whether nothing within is rounded, whatever its caller asks for."""
        return (
            self.is_plain
            and self.before is None
            and caller.functions is None
            and not any(self.sites.values())
            and not torch.compiler.is_compiling()
        )

    def _products(self, caller: Frame | None) -> Products | None:
        site = self.sites.get("products")
        if site is None:
            return None if caller is None else caller.products
        return Products(site) if site and site.enabled else None

    def _functions(self, caller: Frame | None) -> Any:
        site = self.sites.get("elementwise")
        if site is None:
            return None if caller is None else caller.functions
        return functions_of(site) if site and site.enabled else None

    def _forward(self, frame: Frame, inputs: Any, options: Any) -> Any:
        result = self._result(frame, inputs, options)
        _check_traced(frame)
        if frame.derived:
            FRAMES.stack.pop()
            try:
                pass_on(result, frame)
            finally:
                FRAMES.stack.append(frame)
        return result

    def _result(self, frame: Frame, inputs: Any, options: Any) -> Any:
        if self.before is not None:
            return self.before(*inputs, **options)
        kind = type(self.module).forward
        if frame.products is not None and kind in FORWARDS:
            return FORWARDS[kind](self.module, frame.products, *inputs, **options)
        if frame.functions is not None and kind in FUNCTIONS:
            return FUNCTIONS[kind](self.module, frame.functions, *inputs, **options)
        if kind in DIRECT and (frame.products is not None or frame.functions is not None):
            return DIRECT[kind](frame, self.module, *inputs, **options)
        return kind(self.module, *inputs, **options)


def _check_traced(frame: Frame) -> None:
    """Where torch.compile traces a frame, have what it has added to the graph looked at."""
    if torch.compiler.is_dynamo_compiling():
        policy = _policy()
        check_traced(
            frame.name,
            "ignore" if frame.products is None else policy.get("products", "ignore"),
            "ignore" if frame.functions is None else policy.get("elementwise", "ignore"),
        )


def _policy() -> dict[str, str]:
    """What to do about what is not covered, by the outermost call."""
    root = scope_of(FRAMES.stack[0].module)
    return {} if root is None else root.policy


def scope_of(module: nn.Module) -> ModuleScope | None:
    """The scope that stands in for the module's forward."""
    forward = module.__dict__.get("forward")
    return forward if isinstance(forward, ModuleScope) else None


def sites_of_scope(module: nn.Module) -> list[Site]:
    """The sites of the module's scope."""
    scope = scope_of(module)
    return [] if scope is None else [site for site in scope.sites.values() if site]


def put(module: nn.Module, name: str, section: str, site: Any, policy: str) -> Placed:
    """Begin to round a section of a recipe in a module; `site` False excludes the module, None
    leaves it to its callers.
    """
    scope = scope_of(module)
    if scope is None:
        scope = module.__dict__["forward"] = ModuleScope(module, name)
    scope.sites[section], scope.policy[section], scope.report = site, policy, None
    return Placed(scope, section)


class Placed:
    """Ends what `put` began."""

    def __init__(self, scope: ModuleScope, section: str) -> None:
        self.scope, self.section = scope, section

    def remove(self) -> None:
        """Give the module back the forward that it had, with the last section."""
        scope, module = self.scope, self.scope.module
        scope.sites.pop(self.section, None)
        scope.policy.pop(self.section, None)
        if not scope.sites and scope_of(module) is scope:
            if scope.before is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = scope.before
