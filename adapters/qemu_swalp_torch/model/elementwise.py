"""Rounding of each elementary step within a model's softmax, normalization and nonlinearities."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from qemu_swalp._util.checks import check_int
from qemu_swalp.training import ELEMENTWISE, Recipe, as_recipe

from ..ops.elementwise import StepRules
from ..ops.functional import Stepwise
from ..ops.matmul import Operands
from ..sections import check_section
from ..tensors.call_counters import Clock, clock_of, join
from ..tensors.custom_ops import is_stochastic
from .activations import check_module, warn_if_compiled
from .attention import attend
from .forward_override import ForwardSite, forwards_of, has_own_forward
from .handle import SiteHandle
from .sdpa import attention, calls_attention
from .selection import Selection, chosen, is_inner

FUNCTIONS: dict[Any, str] = {
    F.layer_norm: "layer_norm",
    F.rms_norm: "rms_norm",
    F.group_norm: "group_norm",
    F.batch_norm: "batch_norm",
    F.gelu: "gelu",
    F.silu: "silu",
    **{
        kind: name
        for name in ("softmax", "log_softmax")
        for kind in (getattr(F, name), getattr(torch, name), getattr(Tensor, name))
    },
    **{
        kind: name
        for name in ("sigmoid", "tanh")
        for kind in (getattr(F, name), getattr(torch, name), getattr(Tensor, name))
    },
}
"""The functions that are made of rounded steps, by what they are called in `Stepwise`."""

NAMES = frozenset(FUNCTIONS.values())


class StepSite(ForwardSite):
    """Runs the forward of a module with the functions that it calls made of rounded steps."""

    level = 1

    def __init__(
        self, clock: Clock, name: str, place: int, recipe: Recipe, seed: int, module: nn.Module
    ) -> None:
        super().__init__(clock, name, place, seed, module)
        self.quantizers = tuple(
            None if (rule := recipe.elementwise_rule(name)) is None else str(rule)
            for name in ELEMENTWISE
        )
        self.stochastic = any(is_stochastic(q) for q in self.quantizers if q is not None)

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        kind = type(self.module).forward
        if not self.enabled:
            return (
                kind(self.module, *inputs, **options)
                if self.inner is None
                else self.inner(*inputs, **options)
            )
        stepwise = Stepwise(StepRules(self.quantizers, self.seed, self.place, self.turn()))
        if kind in _registered:
            if self.inner is not None:
                raise RuntimeError(
                    f"{self.name!r} ({type(self.module).__qualname__}) has two forwards in place of"
                    " its own, by register_gemms and by register_elementwise; exclude it from one"
                )
            return _registered[kind](self.module, stepwise, *inputs, **options)
        with StepCalls(stepwise):
            if self.inner is not None:
                return self.inner.run(stepwise.safe_softmax, *inputs, **options)
            if kind is nn.MultiheadAttention.forward:
                return attend(
                    cast(nn.MultiheadAttention, self.module),
                    Unrounded(stepwise),
                    *inputs,
                    **options,
                )
            return kind(self.module, *inputs, **options)


class Unrounded:
    """The rules of products that are not rounded, around a softmax that is."""

    def __init__(self, stepwise: Stepwise) -> None:
        self.softmax = stepwise.safe_softmax

    def of(self, part: str = "") -> Operands:
        return Operands()

    of_activations = of


class StepCalls(TorchFunctionMode):
    """Within it `FUNCTIONS` are made of rounded steps; of nested ones the innermost counts."""

    def __init__(self, stepwise: Stepwise) -> None:
        super().__init__()
        self.stepwise = stepwise

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, inputs: Any = (), options: Any = None
    ) -> Any:
        options = options or {}
        if function is F.scaled_dot_product_attention:
            return attention(Unrounded(self.stepwise), "", *inputs, **options)
        name = FUNCTIONS.get(function)
        if name is None or "out" in options:
            if function is Tensor.unflatten:  # torch.compile cannot trace the method within a mode
                function = torch.unflatten
            return function(*inputs, **options)
        if "input" in options:
            inputs, options = (options.pop("input"), *inputs), options
        return getattr(self.stepwise, name)(*inputs, **options)


def quantize_elementwise(
    model: nn.Module,
    recipe: Recipe | str,
    *,
    modules: Selection = (),
    exclude: Selection = (),
    seed: int = 0,
) -> SiteHandle:
    """Round each elementary step within softmax, normalization and nonlinearities, forward and
    backward.

    Where a vector unit computes in bfloat16, or a softmax has an 8-bit exponential, each sum,
    difference, product, quotient, root and function value is rounded before the next step takes it;
    sums of rows are rounded term by term. Sums, differences, products, quotients and roots are
    rounded once from their exact values; exp, log, tanh and erf from PyTorch's float64 ones.
    `qemu_swalp.training.functional` has the steps of each function.

    Parameters
    ----------
    model : any module; parameters, buffers and state_dict stay untouched. Its chosen modules get a
        `forward` of ours.
    recipe : its `steps` count here. Those of module `norm1` go by the name `norm1.steps` in its
        overrides.
    modules : which modules, in the terms of `quantize_activations`; a call counts for the innermost
        chosen module that makes it. Default: those whose forward names one of the functions, or was
        registered: softmax, log_softmax, layer_norm, rms_norm, group_norm, batch_norm, gelu, silu,
        sigmoid, tanh, the softmax within scaled_dot_product_attention; the modules of torch.nn that
        are made of them, and `nn.MultiheadAttention`.
    exclude : which of them not.
    seed : of the random bits, which depend on (seed, step, place of the module in the model, number
        of its calls).

    Returns
    -------
    handle with `remove()`, `state_dict()`, `names`. Copies of the model, by deepcopy or pickle, are
    quantized too.

    Raises
    ------
    TypeError : no module, no recipe; at a call, a dtype that does not hold a step's format.
    ValueError : nothing to round; steps rounded already; a chosen module whose forward was replaced
        by others.

    >>> import torch
    >>> model = nn.Sequential(nn.LayerNorm(3), nn.Softmax(-1))
    >>> handle = quantize_elementwise(model, Recipe(elementwise="e4m3fn/nearest_even"))
    >>> model(torch.tensor([[1.0, 2.0, 4.0]])).tolist()
    [[0.0703125, 0.15625, 0.8125]]
    """
    check_module(model)
    recipe = as_recipe(recipe)
    check_section(recipe, "elementwise")
    check_int("seed", seed, 0, 2**64 - 1)
    clock = clock_of(model)
    sites: list[StepSite] = []
    for place, (name, module) in enumerate(model.named_modules()):
        own = recipe.of(f"{name}.elementwise")
        if not own.elementwise or is_inner(module) or chosen(name, module, exclude):
            continue
        if not (chosen(name, module, modules) if modules else _calls_functions(module)):
            continue
        if any(isinstance(site, StepSite) for site in forwards_of(module)):
            raise ValueError(
                f"the steps of {name!r} are rounded already; remove() its handle first, or exclude"
                " the module"
            )
        if has_own_forward(module):
            raise ValueError(
                f"the forward of {name!r} ({type(module).__qualname__}) was replaced by another;"
                " exclude the module"
            )
        sites.append(StepSite(clock, name, place, own, seed, module))
    if not sites and not recipe.allow_empty:
        raise ValueError(
            "nothing to round: modules= less exclude= must choose a module of the model for which"
            f" the recipe has elementwise; got recipe {recipe.to_dict()}, modules={modules!r}"
        )
    warn_if_compiled(model, "quantize_elementwise")
    handles = [site.register() for site in sites]
    join(model, clock, sites)
    return SiteHandle(model, sites, [*handles, *sites])


def _calls_functions(module: nn.Module) -> bool:
    """Whether the code of a module's forward, not that of what it calls, names one of the
    functions.
    """
    kind = type(module)
    if (
        kind.forward in _registered
        or kind.forward is nn.MultiheadAttention.forward
        or calls_attention(kind)
    ):
        return True
    code = getattr(inspect.unwrap(kind.forward), "__code__", None)
    return code is not None and not NAMES.isdisjoint(code.co_names)


_registered: dict[Any, Callable[..., Any]] = {}


def register_elementwise(kind: type[nn.Module], forward: Callable[..., Any]) -> None:
    """Tell `quantize_elementwise` of what steps a kind of module is made that writes its arithmetic
    out.

    Parameters
    ----------
    kind : a module type with a forward of its own; subclasses that keep that forward are known with
        it.
    forward : called as forward(module, steps, *inputs, **options) in its place; `steps` has the
        functions `softmax`, `layer_norm`, `rms_norm`, … with the arguments of
        `torch.nn.functional`.

    Raises
    ------
    TypeError : no module type, no function. ValueError : the kind is known with another function.

    >>> import torch
    >>> class RMSNorm(nn.Module):
    ...     def __init__(self, size):
    ...         super().__init__()
    ...         self.weight = nn.Parameter(torch.ones(size))
    ...     def forward(self, x):
    ...         return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
    >>> register_elementwise(RMSNorm, lambda module, steps, x: steps.rms_norm(x, x.shape[-1:], module.weight, 1e-6))
    >>> model = RMSNorm(2)
    >>> handle = quantize_elementwise(model, Recipe(elementwise="bf16/nearest_even"))
    >>> model(torch.tensor([3.0, 4.0])).tolist()
    [0.8515625, 1.1328125]
    """
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)) or not callable(forward):
        raise TypeError(
            f"a type of torch.nn.Module and a function are registered, got {kind!r} and {forward!r}"
        )
    if _registered.get(kind.forward, forward) is not forward:
        raise ValueError(f"the steps of {kind.__qualname__}.forward are known already")
    _registered[kind.forward] = forward
