"""The kernels on arrays in a GPU's memory: which are launched, and how they share an array
(`src/cuda/windows.h`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np

from ...formats import Block, Format
from .. import structs
from ..build import CudaProgram
from ..cpu import Memory
from ..multi_tensor import ROLES, Chunks, Limits
from ..plan import DTYPES, MODES, Plan
from ..strides import layout_of

THREADS = 256
"""Of a thread block."""
MOST_SEGMENTS = 256
"""Blocks of the format side by side in a window."""
ONE_PASS = 1 << 16
"""Elements of a window up to which a thread block finds its scales and rounds in one launch."""
LEAST_COLUMNS = 64
"""Of such a window, to use all of the memory that comes with an access."""
RESIDENT = 8
"""Thread blocks that a processor of the GPU holds at a time: no more are launched, and they share
the windows.
"""
SGD_LIMITS = Limits(chunk=4096, most=1 << 16, blocks=128)
"""Of a chunk of a step."""
SOURCE_DTYPES = ("Half", "BFloat", "Single", "Double")
"""Of `src/common/dtype.h`, in the order of `DTYPES`."""
PACKS = (8, 8, 4, 4)
"""Elements of a pack (`src/cuda/packs.h`), in the same order."""


class Device(Protocol):
    """A GPU, which is used on the caller's current stream."""

    def __hash__(self) -> int:
        """One object for a GPU."""

    @property
    def processors(self) -> int:
        """How many the GPU has."""

    def launch(
        self, program: CudaProgram, kernel: str, blocks: int, call: ctypes.Structure
    ) -> None:
        """Start a kernel on so many thread blocks."""

    def zeros(self, size: int) -> tuple[int, Any]:
        """(address of so many zero bytes, what keeps them)."""

    def upload(self, data: bytes) -> tuple[int, Any]:
        """(address of a copy, what keeps it)."""

    def keep(self, values: np.ndarray) -> int:
        """Address of a copy that lives as long as the process."""


def quantize(
    device: Device,
    plan: Plan,
    format: Format,
    shape: tuple[int, ...],
    source: Memory,
    target: Memory,
    random: structs.Random,
) -> bool:
    """As `cpu.quantize`, of arrays in the memory of the device."""
    layout = layout_of(shape, source.strides, target.strides, format)
    whole = (
        layout_of(shape, source.strides, target.strides, format.element)
        if isinstance(format, Block)
        else layout
    )
    if layout is None or whole is None:
        return False
    call = structs.Call(
        on_device(plan, device), layout, counts_of(layout), random, source.address, target.address
    )
    if not isinstance(format, Block):
        _launch(device, "qs_round", call, 8)
        return True
    kept = []  # until all is launched: then the stream keeps it
    if format.second is not None:
        kept.append(_reduce(device, call, whole))
        call.whole = kept[-1][0]
    fits = (
        call.counts.most_rows * least_columns(call.counts.columns, call.counts.segment) <= ONE_PASS
    )
    if not fits:
        kept.append(_reduce(device, call, layout))
        call.extremes = kept[-1][0]
    _launch(device, "qs_blocks", call, 2 if fits else 8, fits)
    return True


def _reduce(device: Device, call: structs.Call, layout: structs.Layout) -> tuple[int, Any]:
    """Memory with the extremes of the blocks of a layout."""
    counts = counts_of(layout)
    lane = 8 if call.plan.dtype == DTYPES.index("float64") else 4
    extremes = device.zeros(counts.count * counts.segments * 3 * lane)
    reduction = structs.Call(call.plan, layout, counts, call.random, call.source, None, extremes[0])
    _launch(device, "qs_reduce", reduction, 8)
    return extremes


def _launch(
    device: Device, kernel: str, call: structs.Call, packs: int, whole: bool = False
) -> None:
    """packs : for each thread, of a window. whole : whether windows hold whole blocks."""
    dtype, counts = call.plan.dtype, call.counts
    windows = windows_of(
        counts.columns, counts.segment, counts.count, counts.most_rows, PACKS[dtype], packs, whole
    )
    for name, value in windows._asdict().items():
        setattr(call, name, value)
    device.launch(
        program_of(SOURCE_DTYPES[dtype], MODES[call.plan.mode]),
        kernel,
        min(windows.windows, RESIDENT * device.processors),
        call,
    )


def program_of(carrier: str, mode: str) -> CudaProgram:
    """Of what quantizes arrays."""
    return CudaProgram(
        "cuda/quantize.cu",
        (
            ("QS_CARRIER", carrier),
            ("QS_MODE", mode),
            ("QS_THREADS", str(THREADS)),
            ("QS_MOST_SEGMENTS", str(MOST_SEGMENTS)),
        ),
    )


class Windows(NamedTuple):
    """How the block rows of an array are parted: fields of `structs.Call`."""

    row_step: int
    column_step: int
    row_parts: int
    column_parts: int
    windows: int
    width: int


@lru_cache(maxsize=4096)
def windows_of(
    columns: int, segment: int, count: int, most_rows: int, pack: int, packs: int, whole: bool
) -> Windows:
    """Windows of some `packs` for each thread; of whole blocks, or of parts of them."""
    elements = THREADS * pack * packs
    most_columns = min(columns, MOST_SEGMENTS * segment)
    if whole:
        rows, least = most_rows, least_columns(columns, segment)
        across = min(most_columns, least * max(1, elements // (rows * least)))
    else:
        across = min(most_columns, elements if most_rows == 1 else THREADS * pack)
        rows = min(most_rows, max(1, elements // across))
    parts = -(-most_rows // rows), -(-columns // across)
    width = min(THREADS, 1 << (-(-across // pack) - 1).bit_length())
    return Windows(rows, across, *parts, count * parts[0] * parts[1], width)


def least_columns(columns: int, segment: int) -> int:
    """Of a window of whole blocks."""
    return min(-(-min(LEAST_COLUMNS, columns) // segment), MOST_SEGMENTS) * segment


def counts_of(layout: structs.Layout) -> structs.Counts:
    """As `src/common/block_rows.h`."""
    outer = layout.axes - 1
    columns, segment = layout.lengths[outer], layout.extents[outer]
    counts = structs.Counts(columns, segment, -(-columns // segment), 1, 1)
    for length, extent in zip(layout.lengths[:outer], layout.extents[:outer], strict=True):
        counts.count *= -(-length // extent)
        counts.most_rows *= min(length, extent)
    return counts


@lru_cache(maxsize=4096)
def on_device(plan: Plan, device: Device) -> structs.Plan:
    """The plan's structure, pointing to copies of its arrays on the device."""
    moved = {int(a.ctypes.data): device.keep(a) for a in plan.arrays}
    copy = structs.Plan.from_buffer_copy(plan.structure)
    _point(copy, moved)
    return copy


def _point(structure: ctypes.Structure, moved: dict[int, int]) -> None:
    for name, kind, *_ in structure._fields_:
        value = getattr(structure, name)
        if isinstance(value, ctypes.Structure):
            _point(value, moved)
        elif kind is ctypes.c_void_p and value:
            setattr(structure, name, moved[value])


def sgd_program_of(carrier: str, modes: Sequence[str]) -> CudaProgram:
    """Of what steps tensors. modes : as `sgd.Chunks.modes`."""
    names = ("QS_GRADIENT", "QS_MOMENTUM", "QS_ACCUMULATOR", "QS_WEIGHT")
    defined = {name: mode or "nearest_even" for name, mode in zip(names, modes, strict=True)}
    accumulates = str(int(modes[ROLES.index("accumulator")] != ""))
    return CudaProgram(
        "cuda/multi_tensor.cu",
        (
            ("QS_CARRIER", carrier),
            *defined.items(),
            ("QS_ACCUMULATES", accumulates),
            ("QS_THREADS", str(THREADS)),
            ("QS_MOST_BLOCKS", str(SGD_LIMITS.blocks)),
        ),
    )


def sgd(device: Device, steps: Any, chunks: Sequence[Chunks]) -> None:
    """Make the steps of SGD of a ctypes array of `structs.Sgd` of one dtype, which point to the
    device's memory: one launch for each tuple of the roles' rounding modes.
    """
    found, modes = np.frombuffer(steps, np.dtype(structs.Sgd)), [of_one.modes for of_one in chunks]
    for own in dict.fromkeys(modes):
        part = found[[mode == own for mode in modes]]
        tasks = np.zeros(len(part) + 1, np.uint32)
        np.cumsum(-(-part["elements"] // part["chunk_elements"]), out=tasks[1:])
        kept = device.upload(part.tobytes()), device.upload(tasks.tobytes())
        device.launch(
            sgd_program_of(SOURCE_DTYPES[part["dtype"][0]], own),
            "qs_sgd",
            min(int(tasks[-1]), RESIDENT * device.processors),
            structs.SgdCall(kept[0][0], kept[1][0], len(part)),
        )


@lru_cache(maxsize=4096)
def sgd_on_device(chunks: Chunks, device: Device) -> bytes:
    """`Chunks.structure`, pointing to copies on the device of what it points to."""
    moved = structs.Sgd.from_buffer_copy(chunks.structure)
    for name, role in zip(ROLES, chunks.roles, strict=True):
        if role is not None:
            plan, *layouts = role
            copies = [
                device.keep(np.frombuffer(bytes(s), np.uint8))
                for s in (on_device(plan, device), *layouts)
            ]
            setattr(moved, f"{name}_role", structs.Role(*copies))
    return bytes(moved)
