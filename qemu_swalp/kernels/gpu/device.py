"""What the kernels need of a GPU, and how they are launched on it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import AbstractContextManager
from ctypes import Structure
from typing import Any, Protocol

from .. import structs
from ..build import CudaProgram
from ..plan import Plan
from .copies import Copies, Copy, Placed

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

    def launch(self, program: CudaProgram, kernel: str, blocks: int, call: Structure) -> None:
        """Start a kernel on so many thread blocks."""

    def zeros(self, size: int) -> tuple[int, Any]:
        """(address of so many zero bytes, their owner)."""

    def empty(self, size: int) -> tuple[int, Any]:
        """(address of so many bytes, their owner)."""

    def upload(self, data: bytes) -> tuple[int, Any]:
        """(address of a copy, its owner)."""

    @property
    def copies(self) -> Copies:
        """Of what does not change, in its memory."""

    def capturing(self) -> bool:
        """Whether a CUDA graph is being captured, on the current stream of this device or of
        another that is current.
        """

    def hold(self, copies: Sequence[Any], scratch: Sequence[Any] = ()) -> None:
        """While a CUDA graph is captured: its replays read copies, and write and read scratch
        memory of the caller's library, as long as there is no telling when they end.
        """


def launch(device: Device, program: CudaProgram, kernel: str, tasks: int, call: Structure) -> None:
    """Start a kernel on a thread block for each task, or on as many as the GPU holds at a time."""
    device.launch(program, kernel, blocks_of(device, tasks), call)


def blocks_of(device: Device, tasks: int) -> int:
    """How many thread blocks are launched for so many tasks."""
    return min(tasks, RESIDENT * device.processors)


def plan_on(device: Device, plan: Plan) -> Placed[structs.Plan]:
    """The plan's structure, pointing to copies of its arrays on the device."""

    def make() -> Placed[structs.Plan]:
        moved = {int(a.ctypes.data): device.copies.copy(a.tobytes()) for a in plan.arrays}
        copy = structs.Plan.from_buffer_copy(plan.structure)
        _redirect(copy, {address: copy.address for address, copy in moved.items()})
        return Placed(copy, tuple(moved.values()))

    found: Placed[structs.Plan] = device.copies.recent(plan, make)
    return found


def _redirect(structure: Structure, moved: dict[int, int]) -> None:
    for name, kind, *_ in structure._fields_:
        value = getattr(structure, name)
        if isinstance(value, Structure):
            _redirect(value, moved)
        elif kind is ctypes.c_void_p and value:
            setattr(structure, name, moved[value])


def copy_of(device: Device, structure: Structure, copies: tuple[Copy, ...] = ()) -> Copy:
    """A copy of a structure on the device. copies : what it points to."""
    return device.copies.copy(bytes(structure), copies)
