"""Rounding of the operands of a model's matrix products."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from qemu_swalp._util.checks import check_bool, check_choice
from qemu_swalp.training import Recipe

from ..tensors.call_counters import Position
from ..tensors.model_names import named_modules
from .coverage import POLICIES
from .direct import is_plain
from .handle import SiteHandle
from .interception import put, scope_of
from .kinds import is_known, multiplies
from .registry import FORWARDS, register
from .selection import Selection, chosen
from .sites import ProductSite
from .walk import round_within


def quantize_gemms(
    model: nn.Module,
    recipe: Recipe | str,
    *,
    modules: Selection | None = None,
    exclude: Selection = (),
    attention: bool = False,
    uncovered: str = "raise",
    seed: int | None = None,
) -> SiteHandle:
    """Round what the matrix products of a model multiply: each operand of each product by itself.

    A layer makes three products: its output from input and weight; its input's gradient (dgrad)
    from error and weight; its weight's gradient (wgrad) from error and input. The error is the
    gradient of its output. Where the recipe has `sums`, each is accumulated as its accumulation
    says, and biases are added to that as they are; else in the tensors' own dtype. Gradients pass
    straight through the roundings. Weights themselves stay as they are: rounding those is the
    optimizer's part.

    Parameters
    ----------
    model : any module; parameters, buffers and state_dict stay untouched. Its chosen modules get a
        `forward` that intercepts what theirs calls.
    recipe : its `operands` and `sums` count here, or the name of a preset such as "mxfp8".
        Those of module `fc1` go by the name `fc1.operands` in its overrides: the pattern "fc1.*"
        takes them in. `qemu_swalp_torch.ops.matmul` tells in what shape each operand meets its
        quantizer, `qemu_swalp_torch.ops.accumulate` in what order convolutions sum up.
    modules : which modules, in the terms of `quantize_activations`; a product counts for the
        innermost chosen module that is being called. Default: all. Linear layers, convolutions,
        attention, recurrent layers and cells, and every function, method and operator of PyTorch
        that multiplies matrices are seen as the model calls them, in whoever's code.
        `qemu_swalp_torch.model.products` lists them. The weight of a product is the operand that is
        a parameter or was computed from parameters alone; of two such, the second. Two others are
        both inputs.
    exclude : which of them not, and what is in them neither, as in exclude=("embed", "head").
    attention : whether products of two activations are rounded too, both operands as inputs: q·kᵀ
        and p·v of attention, and whatever else multiplies two activations. Outer products, whose
        sums have one term, never are.
    uncovered : what to do about a product that cannot be rounded: "raise" at the first forward, or
        as torch.compile or torch.export trace it, "warn", or "ignore". Such are products of a
        custom autograd Function, a fused kernel or a scripted module; of sparse, nested or complex
        tensors; in Fourier transforms, factorizations and solutions of equations. Hooks before and
        after a forward belong to it. Products of a backward that are not ours are told at the end
        of the first one, and of the next after hooks were added. They are those of hooks on
        modules, tensors and parameters, of autograd Functions, of PyTorch's own gradients. Hooks
        that are made afresh in every step have every backward watched, which is slow. Hooks on what
        enters and leaves a compiled model are not seen. The products of higher derivatives are
        products of the same three kinds, and rounded as such (`qemu_swalp_torch.ops.derivatives`).
    seed : of the random bits, which depend on (seed, operand, index of the module in the model,
        number of its calls in the present mode of the model). None as in `quantize_activations`.

    Returns
    -------
    handle with `remove()`, `state_dict()`, `names`. Copies of the model, by deepcopy or pickle, are
    quantized too.

    Raises
    ------
    TypeError: if `model` is not a module or `recipe` not a recipe.
    ValueError: if there is nothing to round, or if the operands of a module are rounded already.
    UncoveredError: at the first forward, or its backward, if it makes a product that could not be
        rounded.
    RuntimeError: at a recomputation, if its random bits are ambiguous (see
        `SiteHandle.checkpoint_contexts`).

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> handle = quantize_gemms(model, "mxfp8", exclude="2")
    >>> model(torch.ones(1, 64)).sum().backward()
    >>> handle.names
    ['0']
    """
    check_bool("attention", attention)
    check_choice("uncovered", uncovered, POLICIES)

    def sites_at(position: Position, module: nn.Module, recipe: Recipe) -> Iterator[ProductSite]:
        kind: Any = type(module)
        expected = multiplies(kind, attention)
        if modules is None:
            if not expected and is_known(kind) and position.name:
                return  # what it calls counts for its caller
        elif not chosen(position.name, module, modules):
            return
        else:
            expected |= not is_known(kind) or any(True for _ in module.children())
        _check_unrounded(position.name, module)
        part = recipe.of(f"{position.name}.operands")
        yield ProductSite(
            position,
            part,
            attention=attention,
            expected=expected,
            possible=expected or not is_known(kind),
            policy=uncovered,
        )

    handle = round_within(
        model,
        recipe,
        "products",
        sites_at=sites_at,
        modules=() if modules is None else modules,
        exclude=exclude,
        seed=seed,
        call="quantize_gemms",
        choice=(
            "modules= less exclude= must choose a module of the model that multiplies matrices, for"
            " which the recipe has operands or sums"
        ),
        block=lambda module, name: put(module, name, "products", False, uncovered),
    )
    if modules is None and handle.handles:
        handle.handles += [
            put(module, name, "products", None, uncovered)
            for name, module in named_modules(model)
            if name and is_plain(module) and not _is_rounded(module)
        ]
    return handle


def _is_rounded(module: nn.Module) -> bool:
    scope = scope_of(module)
    return scope is not None and "products" in scope.sites


def _check_unrounded(name: str, module: nn.Module) -> None:
    if _is_rounded(module):
        raise ValueError(
            f"the operands of {name!r} are rounded already; remove() its handle first, or exclude"
            " the module"
        )


def register_gemms(kind: type[nn.Module], forward: Callable[..., Any]) -> None:
    """Tell how to round the operands of a kind of module whose products cannot be seen, as it calls
    a kernel of its own.

    Parameters
    ----------
    kind : a module type with a forward of its own; subclasses that keep that forward are known with
        it.
    forward : called as forward(module, rules, *inputs, **options) in its place. It multiplies by
        any function of PyTorch. To say what is the weight and to name a product's random streams,
        it calls `linear`, `matmul` or `convolution` of `qemu_swalp_torch.ops.matmul`. These take
        `rules.of()` for an input and a weight, `rules.of_activations()` for two activations. Each
        product of several has a name: `rules.of(".gate")`.

    Raises
    ------
    TypeError: if `kind` is not a module type or `forward` not callable.
    ValueError: if the kind is known with another function.

    >>> import torch
    >>> class Sum(torch.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x, weight):
    ...         return x @ weight
    >>> class Fused(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.weight = nn.Parameter(torch.ones(2, 3))
    ...     def forward(self, x):
    ...         return Sum.apply(x, self.weight)
    >>> register_gemms(Fused, lambda module, rules, x: x @ module.weight)
    >>> model = Fused()
    >>> handle = quantize_gemms(model, Recipe(operands={"input": "fixed<8,1>/nearest_even"}))
    >>> model(torch.tensor([[0.6, 0.3]])).tolist()
    [[1.0, 1.0, 1.0]]
    """
    register(FORWARDS, "products", kind, forward)
