"""DTensor (FSDP2, tensor parallelism): every rank rounds its shard to the bits that the whole
tensor would get.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

from qemu_swalp import Block, Format, RandomBits, Squeezed
from qemu_swalp.arrays import Array, namespace_of
from qemu_swalp.training import Quantizer

from .._compat import shard_window


def round_shard(x: Tensor, quantizer: Quantizer, random: RandomBits | None) -> Tensor:
    """A new DTensor, x rounded. Collective where blocks of the format cross shards.

    Random bits are those of the elements' places in the global tensor (clause RNG-3), so they do
    not depend on the mesh. What a scale follows from is reduced over the ranks where whole
    dimensions of blocks are sharded; where runs or tiles cross shards, or two dimensions are
    sharded, the tensor is gathered. ValueError for placements other than Shard and Replicate.
    """
    if not isinstance(x, DTensor):
        raise TypeError(f"x must be a DTensor, got {type(x).__qualname__}")
    with torch.no_grad():
        local, window, sharded = x.to_local(), shard_window(x), _sharded(x)
        if _blocks_within(quantizer.format, x.ndim, sharded):
            local = quantizer(local, _local_random(random, x, window))
        elif len(sharded) == 1 and _whole(quantizer.format, x.ndim, *sharded):
            (axis,) = sharded
            extremes = _extremes(x, local, axis)
            known = _local_random(random, x, window)
            if isinstance(known, Tensor):
                known = torch.cat([known, known.new_zeros(extremes.shape)], axis)
            local = quantizer(torch.cat([local, extremes], axis), known).narrow(
                axis, 0, local.shape[axis]
            )
        else:
            local = quantizer(x.full_tensor(), random)[window]
        return DTensor.from_local(
            local, x.device_mesh, x.placements, run_check=False, shape=x.shape, stride=x.stride()
        )


def _sharded(x: DTensor) -> set[int]:
    """Dimensions that are split among ranks."""
    for placement in x.placements:
        if type(placement) not in (Shard, Replicate):
            raise ValueError(
                "a DTensor is quantized where its placements are Shard or Replicate, got"
                f" {placement}; redistribute it first"
            )
    return {placement.dim % x.ndim for placement in x.placements if isinstance(placement, Shard)}


def _blocks_within(format: Format, ndim: int, sharded: set[int]) -> bool:
    """Whether no block of the format crosses a shard, and no scale is that of the whole array."""
    if not sharded or not isinstance(format, Block | Squeezed):
        return True
    if isinstance(format, Squeezed):
        return False
    extents = format.extents(ndim)
    return format.second is None and all(extents[a] == 1 for a in sharded)


def _whole(format: Format, ndim: int, axis: int) -> bool:
    """Whether blocks have all of an axis, or one index of it: none has a run of it, which may cross
    shards.
    """
    return isinstance(format, Block) and format.extents(ndim)[axis] in (None, 1)


def _extremes(x: DTensor, local: Tensor, axis: int) -> Tensor:
    """Greatest and least finite elements along a sharded axis, of all ranks, and NaN and infinity
    if there are any.

    As four slices more of that axis they give every block the scale of the whole tensor's block:
    scales follow from the extremes of finite elements and 0, and from whether there is a NaN or an
    infinity (clauses BLK-3, BLK-4, BLK-9, BLK-10, BLK-13).
    """
    finite = torch.where(local.isfinite(), local, 0)
    zero = finite.new_zeros([1 if a == axis else n for a, n in enumerate(local.shape)])
    padded = torch.cat([finite, zero], axis)
    flags = (torch.cat([flag, zero.bool()], axis) for flag in (local.isnan(), local.isinf()))
    extremes = torch.cat(
        [
            padded.amax(axis, True),
            -padded.amin(axis, True),
            *(flag.any(axis, True) for flag in flags),
        ],
        axis,
    ).double()
    (mesh_dim,) = (d for d, placement in enumerate(x.placements) if isinstance(placement, Shard))
    distributed.all_reduce(extremes, distributed.ReduceOp.MAX, x.device_mesh.get_group(mesh_dim))
    high, low, nan, infinite = torch.split(extremes, 1, axis)
    slices = [
        high,
        -low,
        torch.where(nan > 0, torch.nan, 0.0),
        torch.where(infinite > 0, torch.inf, 0.0),
    ]
    return torch.cat(slices, axis).to(local.dtype)


def _local_random(random: RandomBits | None, x: DTensor, window: tuple[slice, ...]) -> Any:
    """Random bits of the window: by an offset where it is contiguous in the global tensor, else the
    words.
    """
    if random is None:
        return None
    if _sharded(x) <= {0}:
        return (
            replace(random, offset=random.offset + window[0].start * prod(x.shape[1:]))
            if window
            else random
        )
    words: Array = random.words(namespace_of(x.to_local()), tuple(x.shape), x.to_local())
    return words[window]
