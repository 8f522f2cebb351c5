"""Processes of one group of PyTorch (gloo)."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

from .processes import leave


def results_of(work: Callable[[int, int, Path], Any], ranks: int, folder: Path) -> list[Any]:
    """What so many processes return from work(rank, ranks, folder), by rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_run, (work, ranks, port, folder), nprocs=ranks)
    return [torch.load(folder / f"{ranks}-{rank}", weights_only=True) for rank in range(ranks)]


def _run(rank: int, work: Callable[..., Any], ranks: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    torch.save(work(rank, ranks, folder), folder / f"{ranks}-{rank}")
    distributed.destroy_process_group()
    leave()
