"""Quantization of arrays in a GPU's memory: which kernels are launched, and how thread blocks share
an array (`src/cuda/windows.h`).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

from ...formats import Block, Format
from ...rounding import STOCHASTIC
from .. import structs
from ..build import CudaProgram
from ..plan import MODES, Plan
from ..processor import Memory
from ..strides import c_strides, layout_of, operands_of, permuted
from .device import SOURCE_DTYPES, THREADS, Device, launch, plan_on

MOST_SEGMENTS = 256
"""Blocks of the format side by side in a window."""
ONE_PASS = 1 << 16
"""Elements of a window up to which a thread block finds its scales and rounds in one launch."""
LEAST_COLUMNS = 64
"""Of such a window, to use all of the memory that comes with an access."""
WARP = 32
TOGETHER = 4
"""Packs that a thread holds."""
PACKS = (8, 8, 4, 4)
"""Elements of a pack (`src/cuda/packs.h`), in the order of `plan.DTYPES`."""


def quantize(
    device: Device,
    plan: Plan,
    format: Format,
    shape: tuple[int, ...],
    source: Memory,
    target: Memory,
    random: structs.Random,
    order: tuple[int, ...] | None = None,
) -> bool:
    """As `Processor.quantize`, of arrays in the memory of the device."""
    strides = source.strides, target.strides
    by_number = order is not None and MODES[plan.structure.mode] in STOCHASTIC
    if by_number:
        layout = whole = numbers_of(shape, order) if strides[0] == strides[1] else None
    else:
        layout = layout_of(shape, *strides, format, order)
        whole = layout
        if isinstance(format, Block):
            whole = layout_of(shape, *strides, format.element, order)
    if layout is None or whole is None:
        return False
    placed = plan_on(device, plan)
    counts = structs.Counts(math.prod(shape)) if by_number else counts_of(layout)
    call = structs.QuantizeCall(
        placed.structure, layout, counts, random, source.address, target.address
    )
    # Both alive until all is launched: from then on the stream keeps them.
    if by_number:
        packs = -(-counts.columns // PACKS[call.plan.dtype])
        _launch(device, "qs_order", call, -(-packs // THREADS))
        memories = []
    else:
        memories = _launch_all(device, format, layout, whole, call)
    device.hold(placed.copies, memories)
    del placed, memories
    return True


def _launch_all(
    device: Device,
    format: Format,
    layout: structs.Layout,
    whole: structs.Layout,
    call: structs.QuantizeCall,
) -> list[tuple[int, Any]]:
    """Launch the kernels of a rounding. The memory that they write to beside the target."""
    if not isinstance(format, Block):
        _launch_windows(device, "qs_round", call, 8)
        return []
    memories: list[tuple[int, Any]] = []
    if format.second is not None:
        memories.append(_reduce(device, call, whole))
        call.whole = memories[-1][0]
    if held := held_of(call):
        call.width = held.width
        _launch(device, held.kernel, call, held.tasks)
        return memories
    fits = (
        call.counts.most_rows * least_columns(call.counts.columns, call.counts.segment) <= ONE_PASS
    )
    if not fits:
        memories.append(_reduce(device, call, layout))
        call.extremes = memories[-1][0]
    whole_run = not fits and layout.axes == 1 and call.counts.segments == 1
    _launch_windows(device, "qs_whole" if whole_run else "qs_blocks", call, 2 if fits else 8, fits)
    return memories


@lru_cache(maxsize=4096)
def numbers_of(shape: tuple[int, ...], order: tuple[int, ...]) -> structs.Layout | None:
    """Axes as they lie in memory, with strides of the numbers of elements in C order."""
    strides = permuted(c_strides(shape), order)
    return operands_of(permuted(shape, order), strides, strides)


class Held(NamedTuple):
    """A kernel of `src/cuda/held_blocks.h`, and how it shares the blocks."""

    kernel: str
    width: int
    """Threads of a block of the format."""
    tasks: int
    """Of thread blocks."""


def held_of(call: structs.QuantizeCall) -> Held | None:
    """For blocks that threads hold; None for others."""
    counts, pack, random = call.counts, PACKS[call.plan.dtype], call.random
    if call.layout.axes != 1 or counts.columns % counts.segment or counts.segment % pack:
        return None
    size = 32 if SOURCE_DTYPES[call.plan.dtype] == "Double" else 16  # bytes of a pack
    if any(address % size for address in (call.source, call.target)):
        return None
    if random.words or random.offset % 4:
        return None
    packs = counts.segment // pack
    if packs <= WARP and packs & (packs - 1) == 0:
        return Held("qs_groups", packs, -(-counts.columns // (THREADS * pack * TOGETHER)))
    if packs <= WARP * TOGETHER:
        return Held("qs_rows", WARP, -(-counts.segments // (THREADS // WARP)))
    if packs <= THREADS * TOGETHER:
        return Held("qs_rows", THREADS, counts.segments)
    return None


def _reduce(device: Device, call: structs.QuantizeCall, layout: structs.Layout) -> tuple[int, Any]:
    """Memory with the extremes of the blocks of a layout."""
    counts = counts_of(layout)
    word = 8 if SOURCE_DTYPES[call.plan.dtype] == "Double" else 4
    extremes = device.zeros(counts.count * counts.segments * 3 * word)
    reduction = structs.QuantizeCall(
        call.plan, layout, counts, call.random, call.source, None, extremes[0]
    )
    _launch_windows(device, "qs_reduce", reduction, 8)
    return extremes


def _launch_windows(
    device: Device, kernel: str, call: structs.QuantizeCall, packs: int, whole: bool = False
) -> None:
    """packs : for each thread, of a window. whole : whether windows hold whole blocks."""
    dtype, counts = call.plan.dtype, call.counts
    windows = windows_of(
        counts.columns, counts.segment, counts.count, counts.most_rows, PACKS[dtype], packs, whole
    )
    for name, value in windows._asdict().items():
        setattr(call, name, value)
    _launch(device, kernel, call, windows.windows)


def _launch(device: Device, kernel: str, call: structs.QuantizeCall, tasks: int) -> None:
    program = program_of(SOURCE_DTYPES[call.plan.dtype], MODES[call.plan.mode])
    launch(device, program, kernel, tasks, call)


def program_of(source_dtype: str, mode: str) -> CudaProgram:
    """Of what quantizes arrays."""
    return CudaProgram(
        "cuda/quantize.cu",
        (
            ("QS_SOURCE_DTYPE", source_dtype),
            ("QS_MODE", mode),
            ("QS_THREADS", str(THREADS)),
            ("QS_MOST_SEGMENTS", str(MOST_SEGMENTS)),
        ),
    )


class Windows(NamedTuple):
    """How the block rows of an array are parted: fields of `structs.QuantizeCall`."""

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
