"""Rounding of activations and errors on any model, by forward hooks."""

from __future__ import annotations

import warnings

from torch import nn

from qemu_swalp._util.checks import check_int
from qemu_swalp.training import Recipe, as_recipe

from .._compat import forward_hooks, forward_pre_hooks, is_compiled
from ..sections import check_section
from ..tensors.call_counters import clock_of, join
from .activation_hooks import ActivationSite, InputSite, OutputSite
from .handle import SiteHandle
from .selection import COMPUTING_MODULES, Selection, chosen, is_inner


def quantize_activations(
    model: nn.Module,
    recipe: Recipe | str,
    *,
    modules: Selection = COMPUTING_MODULES,
    inputs: Selection = (),
    exclude: Selection = (),
    seed: int = 0,
) -> SiteHandle:
    """Round the outputs of modules in the forward pass and their gradients in the backward pass.

    a^(l) = Q_A(f_l(a^(l-1))) and e^(l) = Q_E(e^(l)): steps 1 and 2 of algorithm 2 of Yang et al.
    2019. The gradient passes straight through Q_A. Inputs of the model are left as they are; so are
    functions that are no modules (`F.relu`), unless `inputs` chooses the module that receives what
    they give.

    Parameters
    ----------
    model : any module; its parameters, buffers and state_dict stay untouched.
    recipe : its roles activation and error count here; or the name of a preset such as
        "swalp8". The output of module `fc1` goes by the name `fc1.output` in its overrides: the
        pattern "fc1.*" takes in parameters and output.
    modules : which outputs: a module type, a pattern of module names (shell style), a predicate
        (name, module) -> bool, or a sequence of such. Default: `COMPUTING_MODULES`, the leaf
        modules that compute new numbers: convolution, linear, embedding, normalization, attention,
        average pooling, nonlinearity. `modules=nn.ReLU` is the paper's placement for VGG: after
        every ReLU, not the logits.
    inputs : whose positional inputs, in the same terms; they go by `fc1.input` in overrides.
        Residual sums, which no module gives, are the inputs of the modules after them:
        `inputs=("norm1", "norm2")`.
    exclude : which of them not, in the same terms, as in exclude="head": the default rounds logits
        too.
    seed : of the random bits, which depend on (seed, role, place of the module in the model, number
        of its calls). Ranks of a data-parallel run that shall differ need seeds that differ.

    Returns
    -------
    handle with `remove()`, `state_dict()`, `names`. Copies of the model, by deepcopy or pickle, are
    quantized too.

    Raises
    ------
    TypeError : no module, no recipe.
    ValueError : nothing to round: no such role, no such module; outputs rounded already.
    RuntimeError : at a recomputation (activation checkpointing) whose random bits are ambiguous;
        see `checkpoint_contexts`.

    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    >>> handle = quantize_activations(model, Recipe(activation="e4m3fn", error="e5m2"), modules=nn.ReLU)
    >>> model(torch.ones(1, 2)).sum().backward()
    >>> handle.names
    ['1']
    """
    check_module(model)
    recipe = as_recipe(recipe)
    check_section(recipe, "activations")
    check_int("seed", seed, 0, 2**64 - 1)
    clock = clock_of(model)
    found: list[tuple[nn.Module, ActivationSite]] = []
    for place, (name, module) in enumerate(model.named_modules()):
        if is_inner(module) or chosen(name, module, exclude):
            continue
        kinds: tuple[tuple[type[ActivationSite], Selection], ...] = (
            (InputSite, inputs),
            (OutputSite, modules),
        )
        for kind, choice in kinds:
            own = recipe.of(f"{name}.{kind.end}")
            if (own.activation or own.error) and chosen(name, module, choice):
                found.append((module, kind(clock, name, place, own, seed)))
    if not found and not recipe.allow_empty:
        raise ValueError(
            "nothing to round: modules= or inputs=, less exclude=, must choose a module of the"
            f" model for which the recipe has activation or error; got recipe {recipe.to_dict()},"
            f" modules={modules!r}"
        )
    for module, site in found:
        hooks = (*forward_pre_hooks(module).values(), *forward_hooks(module).values())
        if any(isinstance(hook, type(site)) for hook in hooks):
            raise ValueError(
                f"the {site.end} of {site.module!r} is rounded already; remove() its handle first,"
                " or exclude the module"
            )
    warn_if_compiled(model, "quantize_activations")
    sites = [site for _, site in found]
    handles = [site.register(module) for module, site in found]
    join(model, clock, sites)
    return SiteHandle(model, sites, handles)


def check_module(model: object) -> None:
    """TypeError unless it is a module."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            "model must be a torch.nn.Module, got"
            f" {type(model).__module__}.{type(model).__qualname__}"
        )


def warn_if_compiled(model: nn.Module, call: str) -> None:
    """Warn where the model was compiled before the present call changes it."""
    if any(is_compiled(module) for module in model.modules()):
        warnings.warn(
            f"the model was compiled before; torch.compile ignores hooks added later: call {call}"
            " first, then torch.compile",
            stacklevel=3,
        )
