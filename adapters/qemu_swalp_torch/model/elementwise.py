"""Rounding of each elementwise operation in a model's softmax, normalization, nonlinearities."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from qemu_swalp._util.checks import check_choice
from qemu_swalp.training import Recipe

from ..tensors.call_counters import Position
from .coverage import POLICIES
from .handle import SiteHandle
from .interception import put, scope_of
from .kinds import computes, is_known
from .registry import FUNCTIONS, register
from .selection import Selection, chosen
from .sites import ElementwiseSite
from .walk import round_within


def quantize_elementwise(
    model: nn.Module,
    recipe: Recipe | str,
    *,
    modules: Selection | None = None,
    exclude: Selection = (),
    uncovered: str = "raise",
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
        chosen module that makes it. Default: all. `qemu_swalp_torch.model.arithmetic` lists the
        operations: arithmetic, means and norms, nonlinearities, normalization, average pooling,
        losses, softmax within attention, the gates of recurrent layers. What autograd adds where a
        number is used several times, as by broadcasting, gathering and windows that overlap, is not
        rounded.
    exclude : which of them not, and what is in them neither.
    uncovered : what to do about an operation that is not known, or made by a custom kernel: "raise"
        at the first forward, "warn", or "ignore". The same holds for those that autograd Functions
        make in the first backward; hooks on gradients, which often only look, are left alone.
    seed : of the random bits, which depend on (seed, operation, index of the module in the model,
        number of its calls in the present mode of the model). None as in `quantize_activations`.

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

    check_choice("uncovered", uncovered, POLICIES)

    def sites_at(
        position: Position, module: nn.Module, recipe: Recipe
    ) -> Iterator[ElementwiseSite]:
        if modules is not None and not chosen(position.name, module, modules):
            return
        _check_unrounded(position.name, module)
        part = recipe.of(f"{position.name}.elementwise")
        kind: Any = type(module)
        expected = modules is not None or computes(kind)
        yield ElementwiseSite(
            position,
            part,
            expected=expected,
            possible=expected or not is_known(kind),
            policy=uncovered,
        )

    return round_within(
        model,
        recipe,
        "elementwise",
        sites_at=sites_at,
        modules=() if modules is None else modules,
        exclude=exclude,
        seed=seed,
        call="quantize_elementwise",
        choice=(
            "modules= less exclude= must choose a module of the model for which the recipe has"
            " elementwise"
        ),
        block=lambda module, name: put(module, name, "elementwise", False, uncovered),
    )


def _check_unrounded(name: str, module: nn.Module) -> None:
    scope = scope_of(module)
    if scope is not None and "elementwise" in scope.sites:
        raise ValueError(
            f"the elementwise operations of {name!r} are rounded already; remove() its handle"
            " first, or exclude the module"
        )


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
    register(FUNCTIONS, "functions", kind, forward)
