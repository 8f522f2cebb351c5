"""Scopes of the modules of a model: what stands in for their forwards, so that the functions which
these call are intercepted.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn

from .._compat import (
    call_impl_of,
    never_traced_first,
    stand_in,
    without_interception,
)
from ..tensors.call_counters import Site
from ..tensors.model_names import named_modules
from ..tensors.scripting import NotScriptable
from .backward_coverage import SCOPES, TRIES, expect, is_wanted
from .coverage import Report, is_watchable, watched
from .direct import DIRECT, is_plain
from .frames import FRAMES, Frame, Products, functions_of, pass_on
from .function_mode import Interception, remember, show_functions
from .origins import Place
from .registry import FORWARDS, FUNCTIONS
from .traced import check_traced, check_untransformed

Forward = Callable[..., Any]


class ModuleScope(NotScriptable):
    """What a module has in place of its `forward`: the same, with products and elementwise
    operations intercepted.
    """

    parameter_hooks: frozenset[int] = frozenset()
    """Ids of the hooks on the module's own parameters when a backward began."""

    def __new__(cls, *inputs: Any) -> ModuleScope:
        """Copies are entered too."""
        scope = super().__new__(cls)
        SCOPES[id(scope)] = scope
        return scope

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
        self.backward: Report | None = None
        """What was found in its backward."""
        self.tries = TRIES
        """How many more forwards are watched until one has a backward."""
        self.hooks: tuple[int, frozenset[int]] = (0, frozenset())
        """How many hooks had ever been made when a forward began, and ids of those on backwards."""

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
        if not stack:
            return self._outermost(ModuleScope.__call__, self, inputs, options)
        caller = stack[-1]
        if self._is_passed(caller):
            with without_interception():  # a dozen calls within need no look at each
                result = type(self.module).forward(self.module, *inputs, **options)
                remember(caller, inputs, result)
            return result
        if caller.opened_for is self:
            caller.opened_for = None
            return self._forward(caller, inputs, options)
        frame = self._frame(caller)
        _check_traced(caller)
        stack.append(frame)
        try:
            return self._forward(frame, inputs, options)
        finally:
            stack.pop()

    def call(self, *inputs: Any, **options: Any) -> Any:
        """What the module has in place of its `_call_impl`: hooks of the outermost module run
        within its scope, as those of the others do within their callers'.
        """
        call_impl = call_impl_of(self.module)
        if FRAMES.stack:
            return call_impl(self.module, *inputs, **options)
        return self._outermost(call_impl, self.module, inputs, options)

    def _outermost(self, function: Any, of: Any, inputs: Any, options: Any) -> Any:
        frame, stack = self._frame(None), FRAMES.stack
        frame.opened_for = self
        if torch.compiler.is_dynamo_compiling():
            check_untransformed(self.name)
            show_functions()
        stack.append(frame)
        try:
            if not self.is_watched():
                with Interception():
                    result = function(of, *inputs, **options)
            else:
                with watched(self) as origins, Interception():
                    result = function(of, *inputs, **options)
                if torch.is_grad_enabled():
                    expect(self, origins)
            _check_traced(frame)
            return result
        finally:
            stack.pop()

    def _frame(self, caller: Frame | None) -> Frame:
        return Frame(self.module, self.name, self._products(caller), self._functions(caller))

    @never_traced_first
    def is_watched(self) -> bool:
        """Whether a forward that begins here is watched: the first, and the first that has a
        backward.
        """
        if not self.policy or not is_watchable():
            return False
        return self.report is None or is_wanted(self)

    @property
    def place(self) -> Place:
        """Of the module itself, as it is called within a model that is rounded."""
        sites = (self.sites.get(section) for section in ("products", "elementwise"))
        return Place(self.name, *(site is None or bool(site and site.enabled) for site in sites))

    def places(self) -> dict[int, Place]:
        """id of a module of the model, or of a parameter → where it is."""
        modules, found = dict(named_modules(self.module)), dict[int, Place]()
        for name, module in modules.items():
            rounded = (_is_rounded(modules, name, s) for s in ("products", "elementwise"))
            place = Place(name, *rounded)
            for part in (module, *module.parameters(recurse=False)):
                found.setdefault(id(part), place)
        return found

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
        policy = policy_of(FRAMES.stack[0].module)
        check_traced(
            frame.name,
            "ignore" if frame.products is None else policy.get("products", "ignore"),
            "ignore" if frame.functions is None else policy.get("elementwise", "ignore"),
        )


def policy_of(module: nn.Module) -> dict[str, str]:
    """What to do about what is not covered, by section, in a call that begins with the module."""
    root = scope_of(module)
    return {} if root is None else root.policy


def _is_rounded(modules: dict[str, nn.Module], name: str, section: str) -> bool:
    """Whether the module of that name is rounded: as the innermost says that has a say."""
    scope = scope_of(modules[name]) if name in modules else None
    site = None if scope is None else scope.sites.get(section)
    if site is not None:
        return bool(site) and bool(site.enabled)
    return bool(name) and _is_rounded(modules, name.rpartition(".")[0], section)


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
        stand_in(module, scope.call)
    scope.sites[section], scope.policy[section] = site, policy
    scope.report = scope.backward = None
    scope.tries = TRIES
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
        if not scope.sites:
            stand_in(module, None)
        if not scope.sites and scope_of(module) is scope:
            if scope.before is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = scope.before
