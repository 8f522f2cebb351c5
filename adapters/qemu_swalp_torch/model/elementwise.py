"""Rounding of each elementwise operation in a model's softmax, normalization, nonlinearities."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from qemu_swalp.training import ELEMENTWISE, Recipe

from ..ops.elementwise import ElementwiseRules
from ..ops.functional import ElementwiseFunctions
from ..ops.matmul import Operands
from ..tensors.call_counters import Position
from ..tensors.custom_ops import is_stochastic
from .attention import attend
from .forward_override import ForwardSite, forwards_of, has_own_forward
from .handle import SiteHandle
from .sdpa import attention, calls_attention
from .selection import Selection, chosen
from .walk import round_within

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
"""The functions whose operations are rounded, by their names in `ElementwiseFunctions`."""

NAMES = frozenset(FUNCTIONS.values())


class ElementwiseSite(ForwardSite):
    """Runs the forward of a module with the operations of the functions that it calls rounded."""

    level = 1

    def __init__(self, position: Position, recipe: Recipe, module: nn.Module) -> None:
        super().__init__(position, module)
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
        functions = ElementwiseFunctions(
            ElementwiseRules(self.quantizers, self.seed, self.index, self.turn())
        )
        if kind in _registered:
            if self.inner is not None:
                raise RuntimeError(
                    f"{self.name!r} ({type(self.module).__qualname__}) has two forwards in place of"
                    " its own, by register_gemms and by register_elementwise; exclude it from one"
                )
            return _registered[kind](self.module, functions, *inputs, **options)
        with ElementwiseCalls(functions):
            if self.inner is not None:
                return self.inner.run(functions.safe_softmax, *inputs, **options)
            if kind is nn.MultiheadAttention.forward:
                return attend(
                    cast(nn.MultiheadAttention, self.module),
                    UnroundedProducts(functions),
                    *inputs,
                    **options,
                )
            return kind(self.module, *inputs, **options)


class UnroundedProducts:
    """The rules of products that are not rounded, around a softmax that is."""

    def __init__(self, functions: ElementwiseFunctions) -> None:
        self.softmax = functions.safe_softmax

    def of(self, part: str = "") -> Operands:
        return Operands()

    of_activations = of


class ElementwiseCalls(TorchFunctionMode):
    """Within it the operations of `FUNCTIONS` are rounded; of nested ones the innermost counts."""

    def __init__(self, functions: ElementwiseFunctions) -> None:
        super().__init__()
        self.functions = functions

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, inputs: Any = (), options: Any = None
    ) -> Any:
        options = options or {}
        if function is F.scaled_dot_product_attention:
            return attention(UnroundedProducts(self.functions), "", *inputs, **options)
        name = FUNCTIONS.get(function)
        if name is None or "out" in options:
            if function is Tensor.unflatten:  # torch.compile cannot trace the method within a mode
                function = torch.unflatten
            return function(*inputs, **options)
        if "input" in options:
            inputs, options = (options.pop("input"), *inputs), options
        return getattr(self.functions, name)(*inputs, **options)


def quantize_elementwise(
    model: nn.Module,
    recipe: Recipe | str,
    *,
    modules: Selection = (),
    exclude: Selection = (),
    seed: int | None = None,
) -> SiteHandle:
    """Round each elementwise operation in softmax, normalization and nonlinearities, forward and
    backward.

    This emulates a vector unit that computes in bfloat16, or a softmax with an 8-bit exponential.
    Each sum, difference, product, quotient, root and function value is rounded before the next
    operation uses it; sums of rows are rounded term by term. Sums, differences, products, quotients
    and roots are rounded once from their exact values; exp, log, tanh and erf from PyTorch's
    float64 values.
    `qemu_swalp.training.functional` has the operations of each function.

    Parameters
    ----------
    model : any module; parameters, buffers and state_dict stay untouched. Its chosen modules get a
        `forward` of ours.
    recipe : its section `elementwise`. The operations of module `norm1` go by the name
        `norm1.elementwise` in its overrides.
    modules : which modules, in the terms of `quantize_activations`; a call counts for the innermost
        chosen module that makes it. Default: those whose forward names one of the functions, or was
        registered: softmax, log_softmax, layer_norm, rms_norm, group_norm, batch_norm, gelu, silu,
        sigmoid, tanh, the softmax within scaled_dot_product_attention; the modules of torch.nn that
        are made of them, and `nn.MultiheadAttention`.
    exclude : which of them not.
    seed : of the random bits, which depend on (seed, operation, index of the module in the model,
        number of its calls in the present mode of the model); None as in `quantize_activations`.

    Returns
    -------
    handle with `remove()`, `state_dict()`, `names`. Copies of the model, by deepcopy or pickle, are
    quantized too.

    Raises
    ------
    TypeError: if `model` is not a module or `recipe` not a recipe; at a call, if a dtype cannot
        represent the format of an operation.
    ValueError: if there is nothing to round, if a module's operations are rounded already, or if
        somebody else replaced its forward.

    >>> import torch
    >>> model = nn.Sequential(nn.LayerNorm(3), nn.Softmax(-1))
    >>> handle = quantize_elementwise(model, Recipe(elementwise="e4m3fn/nearest_even"))
    >>> model(torch.tensor([[1.0, 2.0, 4.0]])).tolist()
    [[0.0703125, 0.15625, 0.8125]]
    """

    def sites_at(
        position: Position, module: nn.Module, recipe: Recipe
    ) -> Iterator[ElementwiseSite]:
        part = recipe.of(f"{position.name}.elementwise")
        if part.elementwise and (
            chosen(position.name, module, modules) if modules else _calls_functions(module)
        ):
            _check_forward(position.name, module)
            yield ElementwiseSite(position, part, module)

    return round_within(
        model,
        recipe,
        "elementwise",
        sites_at=sites_at,
        modules=modules,
        exclude=exclude,
        seed=seed,
        call="quantize_elementwise",
        choice=(
            "modules= less exclude= must choose a module of the model for which the recipe has"
            " elementwise"
        ),
    )


def _check_forward(name: str, module: nn.Module) -> None:
    if any(isinstance(site, ElementwiseSite) for site in forwards_of(module)):
        raise ValueError(
            f"the elementwise operations of {name!r} are rounded already; remove() its handle"
            " first, or exclude the module"
        )
    if has_own_forward(module):
        raise ValueError(
            f"the forward of {name!r} ({type(module).__qualname__}) was replaced by another;"
            " exclude the module"
        )


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
    """Tell `quantize_elementwise` which functions a kind of module computes that writes its
    arithmetic out.

    Parameters
    ----------
    kind : a module type with a forward of its own; subclasses that keep that forward are known with
        it.
    forward : called as forward(module, functions, *inputs, **options) in its place; `functions` has
         `softmax`, `layer_norm`, `rms_norm`, … with the arguments of
        `torch.nn.functional`.

    Raises
    ------
    TypeError: if `kind` is not a module type or `forward` not callable.
    ValueError: if the kind is known with another function.

    >>> import torch
    >>> class RMSNorm(nn.Module):
    ...     def __init__(self, size):
    ...         super().__init__()
    ...         self.weight = nn.Parameter(torch.ones(size))
    ...     def forward(self, x):
    ...         return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
    >>> def forward(module, functions, x):
    ...     return functions.rms_norm(x, x.shape[-1:], module.weight, 1e-6)
    >>> register_elementwise(RMSNorm, forward)
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
        raise ValueError(f"the functions of {kind.__qualname__}.forward are known already")
    _registered[kind.forward] = forward
