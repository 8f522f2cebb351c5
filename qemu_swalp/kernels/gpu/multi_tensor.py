"""Many tensors in a GPU's memory: rounded, or stepped by quantized SGD, in one launch for each
rounding mode, or tuple of modes, since a program is compiled for those.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import Structure

import numpy as np

from .. import structs
from ..build import CudaProgram
from ..chunks import ChunkedPlan, Chunks, Limits
from ..multi_tensor import ROLES
from .copies import Placed
from .device import SOURCE_DTYPES, THREADS, Device, blocks_of, copy_of, launch, plan_on

LIMITS = Limits(chunk=4096, most=1 << 16, blocks=128)
"""Of a chunk, which a thread block works on."""
SHARED = (("QS_THREADS", str(THREADS)), ("QS_MOST_BLOCKS", str(LIMITS.blocks)))


def round_many(device: Device, tensors: np.ndarray, chunks: Sequence[Chunks]) -> None:
    """As `Processor.round_many`."""
    for modes, part in _by_modes(tensors, chunks):
        program = rounding_program_of(SOURCE_DTYPES[part["dtype"][0]], modes[0])
        _launch(device, program, "qs_round_many", part, structs.RoundManyCall)


def sgd(device: Device, tensors: np.ndarray, chunks: Sequence[Chunks]) -> None:
    """As `Processor.sgd`."""
    for modes, part in _by_modes(tensors, chunks):
        program = sgd_program_of(SOURCE_DTYPES[part["dtype"][0]], modes)
        narrow = part["stored"] != part["dtype"]
        room = int(part["chunk_elements"][narrow].max(initial=0))
        _launch(device, program, "qs_sgd", part, structs.SgdCall, room)


def rounding_program_of(source_dtype: str, mode: str) -> CudaProgram:
    """The program that rounds many tensors."""
    defined = (("QS_SOURCE_DTYPE", source_dtype), ("QS_ROUND_MODE", mode), *SHARED)
    return CudaProgram("cuda/round_many.cu", defined)


def sgd_program_of(source_dtype: str, modes: Sequence[str]) -> CudaProgram:
    """The program of SGD steps. modes : of the roles, as `Chunks.modes`."""
    named = zip(ROLES, modes, strict=True)
    defined = (
        ("QS_SOURCE_DTYPE", source_dtype),
        *((f"QS_{role.upper()}", mode or "nearest_even") for role, mode in named),
        ("QS_ACCUMULATES", str(int(modes[ROLES.index("accumulator")] != ""))),
        *SHARED,
    )
    return CudaProgram("cuda/sgd.cu", defined)


def structure_on(
    device: Device, chunks: Chunks, kind: type[Structure], names: tuple[str, ...]
) -> Placed[Structure]:
    """As `Processor.structure`."""

    def make() -> Placed[Structure]:
        placed = [None if plan is None else _rounding_on(device, plan) for plan in chunks.plans]
        roundings = [None if each is None else each.structure for each in placed]
        copies = (copy for each in placed if each is not None for copy in each.copies)
        return Placed(chunks.structure(kind, names, roundings), tuple(copies))

    found: Placed[Structure] = device.copies.recent((chunks, kind, names), make)
    return found


def _rounding_on(device: Device, plan: ChunkedPlan) -> Placed[structs.ChunkedRounding]:
    placed = plan_on(device, plan.plan)
    copies = [copy_of(device, placed.structure, placed.copies)]
    copies += [copy_of(device, layout) for layout in (plan.chunk, plan.last)]
    copies += [copy_of(device, plan.order)] if plan.order else []
    addresses = (copy.address for copy in copies)
    return Placed(structs.ChunkedRounding(*addresses), tuple(copies))


def _by_modes(
    tensors: np.ndarray, chunks: Sequence[Chunks]
) -> list[tuple[tuple[str, ...], np.ndarray]]:
    """Tensors whose roundings have the same modes, with those."""
    modes = [each.modes for each in chunks]
    return [(own, tensors[[mode == own for mode in modes]]) for own in dict.fromkeys(modes)]


def _launch(
    device: Device,
    program: CudaProgram,
    kernel: str,
    tensors: np.ndarray,
    kind: type[Structure],
    room: int = 0,
) -> None:
    """room : elements of float32 that wait for scales beside arrays of 16 bits, twice as many for
    each thread block.
    """
    first_task = np.zeros(len(tensors) + 1, np.uint32)
    np.cumsum(-(-tensors["elements"] // tensors["chunk_elements"]), out=first_task[1:])
    memories = [device.upload(array.tobytes()) for array in (tensors, first_task)]
    call = kind(*(address for address, _ in memories), len(tensors))
    tasks = int(first_task[-1])
    if room:
        memories.append(device.empty(blocks_of(device, tasks) * 2 * room * 4))
        call.room, call.waiting = room, memories[-1][0]
    launch(device, program, kernel, tasks, call)
