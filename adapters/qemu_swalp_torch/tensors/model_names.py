"""Names of a model's modules and parameters, as patterns of recipes and selections match them."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from qemu_swalp.training import Recipe

from .._compat import WRAPPED, parameters_of

ENDS = ("input", "output", "operands", "elementwise")
"""What may follow a module's name in the overrides of a recipe."""

KNOWN: list[weakref.ref[nn.Module]] = []
"""Models that some call of this package was given, after which it calls their parameters; they only
get more, so that its length tells whether there are new ones.
"""


def remember(model: nn.Module) -> None:
    """Call parameters by the names that they have in this model, from now on."""
    if all(known() is not model for known in KNOWN):
        KNOWN.append(weakref.ref(model))


def known_names() -> dict[int, str]:
    """id of a parameter → its name in the largest known model that owns it."""
    alive = [model for known in KNOWN if (model := known()) is not None]
    named = sorted(([*named_parameters(model)] for model in alive), key=len)
    return {id(p): name for parameters in named for name, p in parameters}


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of all modules, in the order of PyTorch's own walk.

    Wrappers (DDP, torch.compile, FSDP, activation checkpointing) have no part in the names, and
    bear that of the module that they wrap.
    """
    inner = _wrapped(model)
    for raw, module in model.named_modules():
        yield _clean(raw, inner), module


def named_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name, parameter) of all parameters, without the names of wrappers."""
    inner = _wrapped(model)
    for raw, parameter in model.named_parameters():
        yield _clean(raw, inner), parameter


def named_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name, buffer) of all buffers, without the names of wrappers."""
    inner = _wrapped(model)
    for raw, buffer in model.named_buffers():
        yield _clean(raw, inner), buffer


def is_wrapper(module: nn.Module) -> bool:
    """Whether a module only passes on to the one that it wraps."""
    return _inner_name(module) is not None


def override_names(model: nn.Module) -> tuple[str, ...]:
    """All names that a recipe's overrides may be asked about, by whatever call."""
    modules = [f"{name}.{end}" for name, _ in named_modules(model) for end in ENDS]
    return (*(name for name, _ in named_parameters(model)), *modules)


def override_names_beside(parameters: Iterable[str], patterns: Iterable[str]) -> tuple[str, ...]:
    """The same where only the names of parameters are known: what patterns of modules match is
    left to the calls that see the model.
    """
    of_modules = [pattern for pattern in patterns if pattern.rpartition(".")[2] in ENDS]
    return (*parameters, *of_modules)


def placed(recipe: Recipe, model: nn.Module) -> Recipe:
    """The recipe with names for positions among its overrides.

    A layer is a module, and no embedding, that owns a parameter of two or more dimensions.
    """
    if not recipe.has_positions:
        return recipe
    embeddings = (nn.Embedding, nn.EmbeddingBag)
    layers = [
        name
        for name, module in named_modules(model)
        if not is_wrapper(module) and not isinstance(module, embeddings) and _has_matrix(module)
    ]
    return recipe.at_layers(layers)


def _has_matrix(module: nn.Module) -> bool:
    return any(p is not None and p.ndim > 1 for p in parameters_of(module))


def without_wrappers(names: Iterable[str]) -> list[str]:
    """The names of all parameters without what torch.compile, DDP and the like put into them."""
    cleaned = [".".join(part for part in name.split(".") if part not in WRAPPED) for name in names]
    if cleaned and all(name.startswith("module.") for name in cleaned):
        cleaned = [name.removeprefix("module.") for name in cleaned]
    return cleaned


def unwrapped(named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """(name, parameter) pairs of which the model is not known, `without_wrappers`."""
    pairs = list(named)
    names = without_wrappers(name for name, _ in pairs)
    yield from zip(names, (parameter for _, parameter in pairs), strict=True)


def _wrapped(model: nn.Module) -> dict[str, str]:
    """Raw name of each wrapper → what it calls the module that it wraps."""
    inner = ((raw, _inner_name(module)) for raw, module in model.named_modules())
    return {raw: name for raw, name in inner if name is not None}


def _inner_name(module: nn.Module) -> str | None:
    children = [name for name, _ in module.named_children()]
    parallel = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    if isinstance(module, parallel) and children == ["module"]:
        return "module"
    # Fabric's has two names for one module, or for it and what a strategy made of it.
    return children[0] if children and all(name in WRAPPED for name in children) else None


def _clean(raw: str, inner: dict[str, str]) -> str:
    path, kept = "", []
    for part in raw.split(".") if raw else ():
        if inner.get(path) != part:
            kept.append(part)
        path = f"{path}.{part}" if path else part
    return ".".join(kept)
