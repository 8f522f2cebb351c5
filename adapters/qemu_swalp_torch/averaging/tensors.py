"""Tensors by name: those of a model, copied into and restored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Weights = nn.Module | Iterable[tuple[str, Tensor]] | Mapping[str, Tensor]
"""What has named parameters."""


def named_tensors(model: Weights) -> dict[str, Tensor]:
    """The parameters by name. TypeError if they are not (name, tensor) pairs."""
    if isinstance(model, nn.Module):
        return dict(model.named_parameters())
    named = dict(model)
    for name, p in named.items():
        if not isinstance(name, str) or not isinstance(p, Tensor):
            raise TypeError(
                "model must be a torch.nn.Module, (name, tensor) pairs or a dict of these, got the"
                f" pair ({name!r}, {type(p).__qualname__})"
            )
    return named


@torch.no_grad()
def copy_into(sources: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
    """Copy tensors, name by name, into the targets of the same names."""
    for name, source in sources.items():
        targets[name].copy_(source)


@contextmanager
def restored(tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """At the end, also after an exception, the tensors are bit for bit what they are now."""
    values = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    try:
        yield
    finally:
        copy_into(values, tensors)
