"""Groups of processes, and what each holds of a tensor."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn


def groups_of_ddp() -> list[Any]:
    """The process group of the `DistributedDataParallel` whose forward runs, if one does."""
    ddp: Any = torch.nn.parallel.DistributedDataParallel._get_active_ddp_module()  # type: ignore[no-untyped-call]
    return [] if ddp is None else [ddp.process_group]


def ddp_joins() -> bool:
    """Whether the `DistributedDataParallel` whose forward runs is within its `join`."""
    ddp: Any = torch.nn.parallel.DistributedDataParallel._get_active_ddp_module()  # type: ignore[no-untyped-call]
    return ddp is not None and bool(ddp._join_config.enable)


def groups_of_fsdp(module: nn.Module) -> list[Any]:
    """The process groups of each dimension of the mesh over which `fully_shard` divides batches."""
    if "torch.distributed.fsdp" not in sys.modules:
        return []
    from torch.distributed.fsdp._fully_shard._fsdp_state import _get_module_fsdp_state

    state = _get_module_fsdp_state(module)
    groups = [] if state is None else state._fsdp_param_groups
    return groups[0].mesh_info.mesh.get_all_groups() if groups else []


def shard_window(x: Any) -> tuple[slice, ...]:
    """Where the elements of this rank's shard of a DTensor stand in the global tensor."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(x.shape, x.device_mesh, x.placements)
    return tuple(slice(start, start + length) for start, length in zip(offset, shape, strict=True))
