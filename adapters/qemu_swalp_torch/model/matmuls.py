"""Rounding of the operands of a model's matrix products."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from qemu_swalp._util.checks import check_bool
from qemu_swalp.training import Recipe

from ..tensors.call_counters import Position
from .forward_override import forwards_of, has_own_forward
from .handle import SiteHandle
from .layer_products import FORWARDS, Gemm, multiply
from .sdpa import attention_within, calls_attention
from .selection import GEMM_MODULES, Selection, chosen
from .walk import round_within


def quantize_gemms(
    model: nn.Module,
    recipe: Recipe | str,
    *,
    modules: Selection = GEMM_MODULES,
    exclude: Selection = (),
    attention: bool = False,
    seed: int | None = None,
) -> SiteHandle:
    """Round what the matrix products of a model multiply: each operand of each product by itself.

    A layer makes three products: its output from input and weight; the gradient of its input
    (dgrad) from the error, which is the gradient of its output, and the weight; the gradient of its
    weight (wgrad) from error and input. Where the recipe has `sums`, each is accumulated as its
    accumulation says, and biases are added to that as they are; else in the tensors' own dtype.
    Gradients pass straight through the roundings. Weights themselves stay as they are: rounding
    those is the optimizer's part.

    Parameters
    ----------
    model : any module; parameters, buffers and state_dict stay untouched. Its chosen modules get a
        `forward` of ours.
    recipe : its `operands` and `sums` count here, or the name of a preset such as "mxfp8".
        Those of module `fc1` go by the name `fc1.operands` in its overrides: the pattern "fc1.*"
        takes them in. `qemu_swalp_torch.ops.matmul` tells in what shape each operand meets its
        quantizer, `qemu_swalp_torch.ops.accumulate` in what order convolutions sum up.
    modules : which modules, in the terms of `quantize_activations`. Default: `GEMM_MODULES`, linear
        layers, convolutions, transposed ones included, and attention; and what `register_gemms` was
        told of.
    exclude : which of them not, as in exclude=("embed", "head").
    attention : whether products of two activations are rounded too, both operands as inputs: q·kᵀ
        and p·v in `nn.MultiheadAttention` and in each call of `F.scaled_dot_product_attention`, and
        modules `Matmul`. By default the modules that call the function are found by the code of
        their forward, those of `transformers` (with attn_implementation="sdpa") included; where it
        does so through others, `register_gemms(kind, attention_within)`.
    seed : of the random bits, which depend on (seed, operand, index of the module in the model,
        number of its calls in the present mode of the model); None as in `quantize_activations`.

    Returns
    -------
    handle with `remove()`, `state_dict()`, `names`. Copies of the model, by deepcopy or pickle, are
    quantized too.

    Raises
    ------
    TypeError: if `model` is not a module or `recipe` not a recipe.
    ValueError: if there is nothing to round, if a chosen module has a forward that is neither
        PyTorch's nor registered, or if its operands are rounded already.
    RuntimeError: at a recomputation, if its random bits are ambiguous (see
        `SiteHandle.checkpoint_contexts`); in a forward, if it does not make the call of
        `F.scaled_dot_product_attention` that was to be rounded.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> handle = quantize_gemms(model, "mxfp8", exclude="2")
    >>> model(torch.ones(1, 64)).sum().backward()
    >>> handle.names
    ['0']
    """
    check_bool("attention", attention)
    if modules is GEMM_MODULES:
        modules = (*GEMM_MODULES, *_registered, _calls_attention)

    def sites_at(position: Position, module: nn.Module, recipe: Recipe) -> Iterator[Gemm]:
        part = recipe.of(f"{position.name}.operands")
        if not (part.operands or part.sums) or not chosen(position.name, module, modules):
            return
        if attention or _forward_of(module) not in (multiply, attention_within):
            _check_forward(position.name, module)
            yield Gemm(position, part, module, attention)

    return round_within(
        model,
        recipe,
        "products",
        sites_at=sites_at,
        modules=modules,
        exclude=exclude,
        seed=seed,
        call="quantize_gemms",
        choice=(
            "modules= less exclude= must choose a module of the model that multiplies matrices, for"
            " which the recipe has operands or sums"
        ),
    )


def _calls_attention(name: str, module: nn.Module) -> bool:
    return calls_attention(type(module))


def _forward_of(module: nn.Module) -> Callable[..., Any] | None:
    """Ours for the module; None where its products are not known."""
    kind = type(module)
    return FORWARDS.get(kind.forward, attention_within if calls_attention(kind) else None)


def _check_forward(name: str, module: nn.Module) -> None:
    if any(isinstance(site, Gemm) for site in forwards_of(module)):
        raise ValueError(
            f"the operands of {name!r} are rounded already; remove() its handle first, or exclude"
            " the module"
        )
    if _forward_of(module) is None or has_own_forward(module):
        raise ValueError(
            f"{name!r} ({type(module).__qualname__}) has a forward of its own, whose products are"
            " not known; exclude it, or tell of them by register_gemms"
        )
    if isinstance(module, nn.MultiheadAttention) and (
        module.bias_k is not None or module.add_zero_attn
    ):
        raise ValueError(
            f"{name!r} adds rows to keys and values (add_bias_kv, add_zero_attn), which is not"
            " emulated; exclude it"
        )


_registered: list[type[nn.Module]] = []


def register_gemms(kind: type[nn.Module], forward: Callable[..., Any]) -> None:
    """Tell `quantize_gemms` how to round the operands of a kind of module that it does not know.

    Parameters
    ----------
    kind : a module type with a forward of its own; subclasses that keep that forward are known with
        it.
    forward : called as forward(module, rules, *inputs, **options) in its place. It multiplies by
        `linear`, `matmul` or `convolution` of `qemu_swalp_torch.ops.matmul`, with `rules.of()` for
        an input and a weight, `rules.of_activations()` for two activations; each product of several
        has a name: `rules.of(".gate")`.

    Raises
    ------
    TypeError: if `kind` is not a module type or `forward` not callable.
    ValueError: if the kind is known with another function.

    >>> import torch
    >>> class Conv1D(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.weight = nn.Parameter(torch.ones(2, 3))
    ...         self.bias = nn.Parameter(torch.zeros(3))
    ...     def forward(self, x):
    ...         return x @ self.weight + self.bias
    >>> from qemu_swalp_torch.ops.matmul import linear
    >>> def forward(module, rules, x):
    ...     return linear(x, module.weight.t(), module.bias, rules.of())
    >>> register_gemms(Conv1D, forward)
    >>> model = Conv1D()
    >>> handle = quantize_gemms(model, Recipe(operands={"input": "fixed<8,1>/nearest_even"}))
    >>> model(torch.tensor([[0.6, 0.3]])).tolist()
    [[1.0, 1.0, 1.0]]
    """
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)) or not callable(forward):
        raise TypeError(
            f"a type of torch.nn.Module and a function are registered, got {kind!r} and {forward!r}"
        )
    if FORWARDS.get(kind.forward, forward) is not forward:
        raise ValueError(f"the products of {kind.__qualname__}.forward are known already")
    FORWARDS[kind.forward] = forward
    _registered.append(kind)
