"""How a tensor is parted into chunks of whole blocks, so that many tensors share one call."""

from __future__ import annotations

import math
from ctypes import Structure, addressof
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from ..arrays.dtypes import SOURCE_DTYPES
from ..formats import Block, Format
from ..reference.context import Target
from . import structs
from .plan import DTYPES, Plan, plan_of
from .strides import layout_of


class Limits(NamedTuple):
    """Of chunks."""

    chunk: int
    """Elements to work on at a time."""
    most: int
    """Elements of rows that cannot be parted, beyond which a tensor is not accepted."""
    blocks: int = 0
    """Most blocks of a format in a chunk; 0: any number."""
    host: bool = False
    """Whether plans may be for CPUs alone (`Plan.host_only`)."""


@dataclass(frozen=True, eq=False)
class ChunkedPlan:
    """A plan, and the layouts of a chunk and of the last one, which may be shorter."""

    plan: Plan
    chunk: structs.Layout
    last: structs.Layout

    @property
    def pointers(self) -> structs.ChunkedRounding:
        """As the kernels on the CPU read it."""
        return structs.ChunkedRounding(
            *map(addressof, (self.plan.structure, self.chunk, self.last))
        )


@dataclass(frozen=True, eq=False)
class Chunks:
    """How a tensor is parted, and how each of its roundings goes; None: not at all."""

    dtype: str
    elements: int
    chunk_elements: int
    plans: tuple[ChunkedPlan | None, ...]
    modes: tuple[str, ...]
    """Of the roundings; "" for none."""
    stochastic: bool
    """Whether any rounding draws random words."""

    def structure(
        self,
        kind: type[Structure],
        names: tuple[str, ...],
        roundings: list[structs.ChunkedRounding | None],
    ) -> bytes:
        """A structure of that kind with these roundings in the fields of these names."""
        structure = kind(
            DTYPES.index(self.dtype), elements=self.elements, chunk_elements=self.chunk_elements
        )
        for name, rounding in zip(names, roundings, strict=True):
            if rounding is not None:
                setattr(structure, name, rounding)
        return bytes(structure)


@lru_cache(maxsize=4096)
def chunks_of(
    shape: tuple[int, ...], dtype: str, targets: tuple[Target | None, ...], limits: Limits
) -> Chunks | None:
    """The chunks of a tensor with elements; None if the blocks of the formats do not fit into small
    ones, or the kernels do not support a target.
    """
    blocks = [
        target.format
        for target in targets
        if target is not None and isinstance(target.format, Block)
    ]
    if any(block.second is not None for block in blocks):
        return None
    by_rows = bool(blocks and shape)
    rows, inner = (shape[0], math.prod(shape[1:])) if by_rows else (math.prod(shape), 1)
    height = _height(shape, rows, inner, blocks, limits)
    if not 0 < height * inner <= limits.most:
        return None
    plans: list[ChunkedPlan | None] = []
    for target in targets:
        if target is None:
            plans.append(None)
            continue
        plan = plan_of(SOURCE_DTYPES[dtype], target)
        chunk, last = (
            _contiguous((count, *shape[1:]) if by_rows else (count,), target.format)
            for count in (height, rows % height or height)
        )
        if plan is None or chunk is None or last is None or plan.host_only > limits.host:
            return None
        plans.append(ChunkedPlan(plan, chunk, last))
    return Chunks(
        dtype,
        math.prod(shape),
        height * inner,
        tuple(plans),
        tuple("" if target is None else target.rounding.mode for target in targets),
        any(target is not None and target.rounding.stochastic for target in targets),
    )


def _height(
    shape: tuple[int, ...], rows: int, inner: int, blocks: list[Block], limits: Limits
) -> int:
    """Rows of a chunk: as many as the limits allow of those that blocks hold together."""
    together = 1
    for block in blocks:
        extent = block.extents(max(len(shape), 1))[0]
        if extent is None:
            together = rows
            break
        together = math.lcm(together, extent)
    most = together * max(1, limits.chunk // (together * inner))
    if limits.blocks:
        counts = (_count((min(together, rows), *shape[1:]), block) for block in blocks if shape)
        most = min(most, together * (limits.blocks // max(counts, default=1)))
    return min(rows, most)


def _count(shape: tuple[int, ...], block: Block) -> int:
    """How many blocks there are."""
    return math.prod(
        -(-length // (extent or length))
        for length, extent in zip(shape, block.extents(len(shape)), strict=True)
    )


def _contiguous(shape: tuple[int, ...], format: Format) -> structs.Layout | None:
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return layout_of(shape, strides, strides, format)
