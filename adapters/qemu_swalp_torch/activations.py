"""Rounding of activations and errors on any model, by forward hooks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.utils.hooks import RemovableHandle

from qemu_swalp.checks import check_int
from qemu_swalp.training import Recipe

from .optimizer import check_recipe
from .selection import COMPUTING_MODULES, Selection, chosen
from .sites import Beginning, Clock, Replay, Site


class ActivationHandle:
    """What `quantize_activations` returns; a context manager too, which removes the hooks at its end."""

    def __init__(self, clock: Clock, handles: list[RemovableHandle]) -> None:
        self.clock, self.handles = clock, handles

    @property
    def names(self) -> list[str]:
        """Names of the modules whose outputs are rounded."""
        return [site.name for site in self.clock.sites]

    def remove(self) -> None:
        """Leave the model as it was. Does nothing the second time."""
        for handle in self.handles:
            handle.remove()

    def state_dict(self) -> dict[str, int]:
        """Random step of each module: how often it was called. For an exact resume of stochastic rounding."""
        return {site.name: site.calls for site in self.clock.sites}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Inverse of `state_dict`. ValueError, and no change, where the modules are others."""
        if set(state) != set(self.names):
            raise ValueError(f"the state is of other modules: {sorted(set(state) ^ set(self.names))} are in one of the "
                             "two only; call quantize_activations as it was called for the checkpoint")
        for name, calls in state.items():
            check_int(f"state[{name!r}]", calls, 0, 2**32 - 1)
        for site in self.clock.sites:
            site.calls = state[site.name]

    def checkpoint_contexts(self) -> tuple[Beginning, Replay]:
        """For `torch.utils.checkpoint.checkpoint(..., use_reentrant=False, context_fn=handle.checkpoint_contexts)`.

        Needed only where one backward belongs to several forwards, or a module is called several times in a forward;
        else a recomputation finds its random bits by itself.
        """
        beginning = Beginning(self.clock)
        return beginning, Replay(beginning)

    def __enter__(self) -> ActivationHandle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


def quantize_activations(model: nn.Module, recipe: Recipe, *, modules: Selection = COMPUTING_MODULES,
                         exclude: Selection = (), seed: int = 0) -> ActivationHandle:
    """Round the outputs of modules in the forward pass and their gradients in the backward pass.

    a^(l) = Q_A(f_l(a^(l-1))) and e^(l) = Q_E(e^(l)): steps 1 and 2 of algorithm 2 of Yang et al. 2019. The gradient
    passes straight through Q_A. Inputs of the model are left as they are; so are functions that are no modules
    (`F.relu`).

    Parameters
    ----------
    model : any module; its parameters, buffers and state_dict stay untouched.
    recipe : its roles activation and error count here. The output of module `fc1` goes by the name `fc1.output` in its
        overrides: the pattern "fc1.*" takes in parameters and output.
    modules : which outputs: a module type, a pattern of module names (shell style), a predicate (name, module) -> bool,
        or a sequence of such. Default: `COMPUTING_MODULES`, the leaf modules that compute new numbers: convolution,
        linear, embedding, normalization, average pooling, nonlinearity. `modules=nn.ReLU` is the paper's placement for
        VGG: after every ReLU, not the logits.
    exclude : which of them not, in the same terms, as in exclude="head": the default rounds logits too.
    seed : of the random bits, which depend on (seed, role, place of the module in the model, number of its calls).
        Ranks of a data-parallel run that shall differ need seeds that differ.

    Returns
    -------
    handle with `remove()`, `state_dict()`, `names`. Copies of the model, by deepcopy or pickle, are quantized too.

    Raises
    ------
    TypeError : no module, no recipe.
    ValueError : nothing to round: no such role, no such module; outputs rounded already.
    RuntimeError : at a recomputation (activation checkpointing) whose random bits are ambiguous; see
        `checkpoint_contexts`.

    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    >>> handle = quantize_activations(model, Recipe(activation="e4m3fn", error="e5m2"), modules=nn.ReLU)
    >>> model(torch.ones(1, 2)).sum().backward()
    >>> handle.names
    ['1']
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__module__}.{type(model).__qualname__}")
    check_recipe(recipe)
    check_int("seed", seed, 0, 2**64 - 1)
    clock = Clock()
    found: list[tuple[nn.Module, Site]] = []
    for place, (name, module) in enumerate(model.named_modules()):
        own = recipe.of(f"{name}.output")
        if (own.activation or own.error) and chosen(name, module, modules) and not chosen(name, module, exclude):
            found.append((module, Site(clock, name, place, own, seed)))
    if not found:
        raise ValueError("nothing to round: the recipe must have activation or error, and modules= less exclude= must "
                         f"choose a module of the model; got recipe {recipe.to_dict()}, modules={modules!r}")
    for module, site in found:
        if any(isinstance(hook, Site) for hook in module._forward_hooks.values()):
            raise ValueError(f"the output of {site.name!r} is rounded already; remove() its handle first, or exclude "
                             "the module")
    if any(_is_compiled(module) for module in model.modules()):
        warnings.warn("the model was compiled before; torch.compile ignores hooks added later: call "
                      "quantize_activations first, then torch.compile", stacklevel=2)
    clock.sites = [site for _, site in found]
    handles = [module.register_forward_hook(site) for module, site in found]
    if any(site.stochastic for site in clock.sites):
        handles.append(model.register_forward_pre_hook(clock))
    return ActivationHandle(clock, handles)


@contextmanager
def disabled(model: nn.Module) -> Iterator[nn.Module]:
    """Within it the model computes without rounding of activations and errors, as SWALP's average is evaluated.

    >>> import torch
    >>> model = nn.Sequential(nn.ReLU())
    >>> handle = quantize_activations(model, Recipe(activation="fixed<8,1>/nearest_even"))
    >>> model(torch.tensor([0.3])).item()
    0.5
    >>> with disabled(model):
    ...     round(model(torch.tensor([0.3])).item(), 6)
    0.3
    """
    sites = [hook for module in model.modules() for hook in module._forward_hooks.values() if isinstance(hook, Site)]
    before = [site.enabled for site in sites]
    try:
        for site in sites:
            site.enabled = False
        yield model
    finally:
        for site, enabled in zip(sites, before, strict=True):
            site.enabled = enabled


def _is_compiled(module: nn.Module) -> bool:
    return type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None
