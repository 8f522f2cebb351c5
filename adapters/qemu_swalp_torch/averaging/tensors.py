"""Tensors by name: those of a model, copied into and restored, as arrays and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qemu_swalp.interop.torch import array_of, is_dtensor, tensor_of

from ..tensors import model_names

Weights = nn.Module | Iterable[tuple[str, Tensor]] | Mapping[str, Tensor]
"""What has named parameters."""


def named_tensors(model: Weights, buffers: bool = False) -> dict[str, Tensor]:
    """The parameters of a model by name, without wrappers, and its buffers if asked for.

    TypeError if they are not (name, tensor) pairs.
    """
    if isinstance(model, nn.Module):
        named = dict(model_names.named_parameters(model))
        return named | (dict(model_names.named_buffers(model)) if buffers else {})
    named = dict(model)
    for name, p in named.items():
        if not isinstance(name, str) or not isinstance(p, Tensor):
            raise TypeError(
                "model must be a torch.nn.Module, (name, tensor) pairs or a dict of these, got the"
                f" pair ({name!r}, {type(p).__qualname__})"
            )
    return named


def check_fit(average: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
    """ValueError unless the targets have the averaged tensors' names and shapes."""
    missing = sorted(set(average) - set(targets))
    if missing:
        raise ValueError(
            f"model lacks the averaged parameters {', '.join(missing)}; "
            f"it has {', '.join(sorted(targets))}"
        )
    for name, value in average.items():
        if value.shape != targets[name].shape:
            raise ValueError(
                f"{name} has shape {tuple(targets[name].shape)} in model, "
                f"{tuple(value.shape)} in the average"
            )


@torch.no_grad()
def copy_into(sources: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
    """Copy tensors, name by name, into the targets of the same names."""
    for name, source in sources.items():
        targets[name].copy_(placed_like(source, targets[name]))


@contextmanager
def restored(tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """At the end, also after an exception, the tensors are bit for bit what they are now."""
    values = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    try:
        yield
    finally:
        copy_into(values, tensors)


def placed_like(x: Tensor, like: Tensor) -> Tensor:
    """The tensor on the device of another one, and in its shards; itself where it is there."""
    if not is_dtensor(like):
        whole = x.full_tensor() if is_dtensor(x) else x  # type: ignore[attr-defined]
        return whole.to(like.device)
    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    if is_dtensor(x):
        if x.device_mesh == mesh and x.placements == placements:  # type: ignore[attr-defined]
            return x
        x = x.full_tensor()  # type: ignore[attr-defined]
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(x.to(mesh.device_type), mesh, placements)


def real_view(x: Tensor) -> Tensor:
    """Real and imaginary parts of a complex tensor, along a new last axis; a real tensor itself."""
    x = x.detach()
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


class Iterate(Mapping[str, Any]):
    """Tensors as arrays in the dtypes that they are averaged in, each converted when it is asked
    for.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], dtypes: Mapping[str, Any], host: bool
    ) -> None:
        self.tensors, self.dtypes, self.host = tensors, dtypes, host

    def __getitem__(self, name: str) -> Any:
        return as_array(real_view(self.tensors[name]).to(self.dtypes[name]), self.host)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def as_array(x: Tensor, host: bool) -> Any:
    """The tensor as the core averages it; host : as a NumPy array, whatever its size."""
    return x.numpy() if host else array_of(x)


def array_like(value: Any, like: Tensor, host: bool) -> Any:
    """A kept array where the weight is now; itself where it is there."""
    x = tensor_of(value)
    placed = placed_like(x, like)
    return value if placed is x else as_array(placed, host)
