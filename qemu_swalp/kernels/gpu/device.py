"""What the kernels need of a GPU, and how they are launched on it."""

from __future__ import annotations

import ctypes
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from .. import structs
from ..build import CudaProgram
from ..plan import Plan

THREADS = 256
"""Of a thread block."""
RESIDENT = 8
"""Thread blocks that a processor of the GPU holds at a time: no more are launched, and they share
the work.
"""
SOURCE_DTYPES = ("Half", "BFloat", "Single", "Double")
"""Of `src/common/dtype.h`, in the order of `plan.DTYPES`."""


class Device(Protocol):
    """A GPU, used on the caller's current stream."""

    def __hash__(self) -> int:
        """One object for a GPU."""

    @property
    def processors(self) -> int:
        """How many the GPU has."""

    def stream(self) -> AbstractContextManager[Any]:
        """A context in which the caller's library works on this GPU."""

    def launch(
        self, program: CudaProgram, kernel: str, blocks: int, call: ctypes.Structure
    ) -> None:
        """Start a kernel on so many thread blocks."""

    def zeros(self, size: int) -> tuple[int, Any]:
        """(address of so many zero bytes, their owner)."""

    def empty(self, size: int) -> tuple[int, Any]:
        """(address of so many bytes, their owner)."""

    def upload(self, data: bytes) -> tuple[int, Any]:
        """(address of a copy, its owner)."""

    def keep(self, values: np.ndarray) -> int:
        """Address of a copy that lives as long as the process."""


def launch(
    device: Device, program: CudaProgram, kernel: str, tasks: int, call: ctypes.Structure
) -> None:
    """Start a kernel on a thread block for each task, or on as many as the GPU holds at a time."""
    device.launch(program, kernel, blocks_of(device, tasks), call)


def blocks_of(device: Device, tasks: int) -> int:
    """How many thread blocks are launched for so many tasks."""
    return min(tasks, RESIDENT * device.processors)


@lru_cache(maxsize=4096)
def plan_on(device: Device, plan: Plan) -> structs.Plan:
    """The plan's structure, pointing to copies of its arrays on the device."""
    moved = {int(a.ctypes.data): device.keep(a) for a in plan.arrays}
    copy = structs.Plan.from_buffer_copy(plan.structure)
    _redirect(copy, moved)
    return copy


def _redirect(structure: ctypes.Structure, moved: dict[int, int]) -> None:
    for name, kind, *_ in structure._fields_:
        value = getattr(structure, name)
        if isinstance(value, ctypes.Structure):
            _redirect(value, moved)
        elif kind is ctypes.c_void_p and value:
            setattr(structure, name, moved[value])


def kept(device: Device, structure: ctypes.Structure) -> int:
    """Address of a copy of a structure that lives as long as the process."""
    return device.keep(np.frombuffer(bytes(structure), np.uint8))
