"""The walk over a model's modules that all calls make which round within it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable

from torch import nn

from qemu_swalp._util.checks import check_patterns
from qemu_swalp.training import Recipe, as_recipe
from qemu_swalp.training.seeds import seed_for

from .._compat import is_compiled
from ..sections import check_section
from ..tensors.call_counters import Position, Site, clock_of, join
from ..tensors.model_names import is_wrapper, named_modules, override_names, placed, remember
from .handle import SiteHandle
from .removable import Removable, RoundingSite
from .selection import Selection, is_excluded, is_inner, patterns_in


def round_within(
    model: nn.Module,
    recipe: Recipe | str,
    section: str,
    *,
    sites_at: Callable[[Position, nn.Module, Recipe], Iterable[RoundingSite]],
    modules: Selection,
    exclude: Selection,
    inputs: Selection = (),
    seed: int | None,
    call: str,
    choice: str,
    block: Callable[[nn.Module, str], Removable] | None = None,
) -> SiteHandle:
    """Register the sites that `sites_at` makes for each module, all of them or none.

    `section` is that of the recipe which `call` applies, `choice` says what modules must be chosen,
    `block` is called on excluded ones.
    TypeError or ValueError for bad arguments, or where there is nothing to round.
    """
    check_model(model)
    recipe = as_recipe(recipe)
    check_section(recipe, section)
    names = [name for name, _ in named_modules(model)]
    check_patterns("modules", patterns_in(modules), names)
    check_patterns("inputs", patterns_in(inputs), names)
    check_patterns("exclude", patterns_in(exclude), names)
    recipe = placed(recipe, model)
    recipe.check_patterns(override_names(model))
    clock = clock_of(model)
    pairs, excluded = [], []
    with seed_for(section, seed) as drawn:
        for index, (name, module) in enumerate(named_modules(model)):
            if is_wrapper(module) or is_inner(module):
                continue
            if is_excluded(name, module, exclude):
                excluded.append((name, module))
                continue
            position = Position(clock, name, index, drawn)
            pairs += [(module, site) for site in sites_at(position, module, recipe)]
        if not any(site.possible for _, site in pairs):
            if not recipe.allow_empty:
                raise ValueError(
                    f"nothing to round: {choice}; got recipe {recipe.to_dict()},"
                    f" modules={modules!r}"
                )
            pairs, excluded = [], []  # to intercept all and round nothing would cost time alone
    if any(is_compiled(module) for module in model.modules()):
        warnings.warn(
            f"the model was compiled before; torch.compile ignores hooks added later: call {call}"
            " first, then torch.compile",
            stacklevel=3,
        )
    handles = [handle for module, site in pairs for handle in site.register(module)]
    if block is not None:
        handles += [block(module, name) for name, module in excluded]
    sites: list[Site] = [site for _, site in pairs]
    join(model, clock, sites)
    remember(model)
    return SiteHandle(model, sites, handles)


def check_model(model: object) -> None:
    """TypeError if that is not a module."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            "model must be a torch.nn.Module, got"
            f" {type(model).__module__}.{type(model).__qualname__}"
        )
