"""DTensor (FSDP2, tensor parallelism): every rank rounds its shard to the bits that the whole tensor would get."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

from qemu_swalp import Block, Format, RandomBits
from qemu_swalp.backends import Array, namespace_of
from qemu_swalp.training import Quantizer


def round_shard(x: Tensor, quantizer: Quantizer, random: RandomBits | None) -> Tensor:
    """A new DTensor, x rounded. Collective where blocks of the format cross shards: then the tensor is gathered.

    Random bits are those of the elements' places in the global tensor (clause RNG-3), so they do not depend on the
    mesh. ValueError for placements other than Shard and Replicate.
    """
    if not isinstance(x, DTensor):
        raise TypeError(f"x must be a DTensor, got {type(x).__qualname__}")
    with torch.no_grad():
        local, window = x.to_local(), _window(x)
        if not _blocks_within(quantizer.format, tuple(x.shape), _sharded(x)):
            local = quantizer(x.full_tensor(), random)[window]
        elif local.numel():
            local = quantizer(local, _local_random(random, x, window))
        return DTensor.from_local(local, x.device_mesh, x.placements, run_check=False, shape=x.shape, stride=x.stride())


def _sharded(x: DTensor) -> set[int]:
    """Dimensions that are split among ranks."""
    for placement in x.placements:
        if type(placement) not in (Shard, Replicate):
            raise ValueError(f"a DTensor is quantized where its placements are Shard or Replicate, got {placement}; "
                             "redistribute it first")
    return {placement.dim % x.ndim for placement in x.placements if isinstance(placement, Shard)}


def _window(x: DTensor) -> tuple[slice, ...]:
    """Where this rank's elements stand in the global tensor."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(x.shape, x.device_mesh, x.placements)
    return tuple(slice(start, start + length) for start, length in zip(offset, shape, strict=True))


def _blocks_within(format: Format, shape: tuple[int, ...], sharded: set[int]) -> bool:
    """Whether no block of the format crosses a shard, and no scale is that of the whole array."""
    if not isinstance(format, Block):
        return True
    extents = format.extents(len(shape))
    return format.second is None and all(extents[a] == 1 for a in sharded)


def _local_random(random: RandomBits | None, x: DTensor, window: tuple[slice, ...]) -> Any:
    """Random bits of the window: by an offset where it is contiguous in the global tensor, else the words."""
    if random is None:
        return None
    if _sharded(x) <= {0}:
        return replace(random, offset=random.offset + window[0].start * prod(x.shape[1:])) if window else random
    words: Array = random.words(namespace_of(x.to_local()), tuple(x.shape), x.to_local())
    return words[window]
