"""Rounding of activations and errors on any model, by forward hooks."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from qemu_swalp.training import Recipe

from .._compat import forward_hooks, forward_pre_hooks
from ..tensors.call_counters import Position
from .activation_hooks import ActivationSite, InputSite, OutputSite
from .handle import SiteHandle
from .selection import COMPUTING_MODULES, Selection, chosen
from .walk import round_within


def quantize_activations(
    model: nn.Module,
    recipe: Recipe | str,
    *,
    modules: Selection = COMPUTING_MODULES,
    inputs: Selection = (),
    exclude: Selection = (),
    seed: int | None = None,
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
    seed : of the random bits, which depend on (seed, role, index of the module in the model, number
        of its calls in the present mode of the model, see `SiteHandle.state_dict`). None: another
        one for each call of this process, the same at each run of the program; checkpoints and
        copies keep it. Ranks of a data-parallel run that shall differ need seeds that differ.

    Returns
    -------
    handle with `remove()`, `state_dict()`, `names`. Copies of the model, by deepcopy or pickle, are
    quantized too.

    Raises
    ------
    TypeError: if `model` is not a module or `recipe` not a recipe.
    ValueError: if there is nothing to round, as the recipe lacks the roles or the model such
        modules; if a chosen output is rounded already.
    RuntimeError: at a recomputation (activation checkpointing), if its random bits are ambiguous;
        see `checkpoint_contexts`.

    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    >>> recipe = Recipe(activation="e4m3fn", error="e5m2")
    >>> handle = quantize_activations(model, recipe, modules=nn.ReLU)
    >>> model(torch.ones(1, 2)).sum().backward()
    >>> handle.names
    ['1']
    """

    def sites_at(position: Position, module: nn.Module, recipe: Recipe) -> Iterator[ActivationSite]:
        kinds: tuple[tuple[type[ActivationSite], Selection], ...] = (
            (InputSite, inputs),
            (OutputSite, modules),
        )
        for kind, choice in kinds:
            part = recipe.of(f"{position.name}.{kind.end}")
            if (part.activation or part.error) and chosen(position.name, module, choice):
                site = kind(position, part)
                _check_unrounded(module, site)
                yield site

    return round_within(
        model,
        recipe,
        "activations",
        sites_at=sites_at,
        modules=modules,
        exclude=exclude,
        inputs=inputs,
        seed=seed,
        call="quantize_activations",
        choice=(
            "modules= or inputs=, less exclude=, must choose a module of the model for which the"
            " recipe has activation or error"
        ),
    )


def _check_unrounded(module: nn.Module, site: ActivationSite) -> None:
    hooks = (*forward_pre_hooks(module).values(), *forward_hooks(module).values())
    if any(isinstance(hook, type(site)) for hook in hooks):
        raise ValueError(
            f"the {site.end} of {site.module_name!r} is rounded already; remove() its handle first,"
            " or exclude the module"
        )
