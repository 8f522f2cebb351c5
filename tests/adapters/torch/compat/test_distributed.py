"""Contracts of the private API of PyTorch that `qemu_swalp_torch._compat.distributed` touches.

A failure here says that this release of PyTorch changed an item: mend that item, and nothing else.
"""

import importlib

import torch
from qemu_swalp_torch import _compat
from torch import nn

from tests.adapters.torch.compat.conftest import changed


def test_groups():
    """In two processes they are tested by `test_distributed_scales`."""
    ddp = nn.parallel.DistributedDataParallel
    assert ddp._active_ddp_module is None, changed("groups_of_ddp")
    assert _compat.groups_of_ddp() == [], changed("groups_of_ddp")
    importlib.import_module("torch.distributed.fsdp")
    assert _compat.groups_of_fsdp(nn.Linear(2, 2)) == [], changed("groups_of_fsdp")


def test_shard_window():
    import torch.distributed as distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        x = distribute_tensor(torch.zeros(3, 2), init_device_mesh("cpu", (1,)), [Shard(0)])
        assert _compat.shard_window(x) == (slice(0, 3), slice(0, 2)), changed("shard_window")
    finally:
        distributed.destroy_process_group()
