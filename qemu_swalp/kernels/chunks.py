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
from .strides import c_strides, extents_of, layout_by, operands_of, permuted

MOST_IN_ORDER = 1 << 31
"""Elements of tensors that are not in C order, whose places the kernels count in 32 bits."""


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
    order: structs.Layout | None = None
    """`Chunks.order`."""

    @property
    def pointers(self) -> structs.ChunkedRounding:
        """As the kernels on the CPU read it: of tensors in C order."""
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
    stored: str
    """The dtype of the arrays, or where the kernels compute 16-bit ones in float32, that one."""

    def structure(
        self,
        kind: type[Structure],
        names: tuple[str, ...],
        roundings: list[structs.ChunkedRounding | None],
    ) -> Structure:
        """A structure of that kind with these roundings in the fields of these names."""
        structure = kind(
            DTYPES.index(self.dtype), elements=self.elements, chunk_elements=self.chunk_elements
        )
        for name, rounding in zip(names, roundings, strict=True):
            if rounding is not None:
                setattr(structure, name, rounding)
        return structure


@lru_cache(maxsize=4096)
def chunks_of(
    shape: tuple[int, ...],
    dtype: str,
    targets: tuple[Target | None, ...],
    limits: Limits,
    order: tuple[int, ...] | None = None,
    stored: str | None = None,
) -> Chunks | None:
    """The chunks of a tensor with elements; None if the blocks of the formats do not fit into small
    ones, or the kernels do not support a target.

    order : its axes as they lie in memory; None: C order. stored : the dtype of its arrays, if they
    are computed in `dtype`.
    """
    formats = [target.format for target in targets if target is not None]
    if any(isinstance(format, Block) and format.second is not None for format in formats):
        return None
    shape, numbers = shape or (1,), None
    if order is not None:  # from here on as in memory
        strides = permuted(c_strides(shape), order)
        numbers = operands_of(permuted(shape, order), strides, strides)
        if numbers is None or math.prod(shape) > MOST_IN_ORDER:
            return None
    by_axis: dict[Format, tuple[int, ...]] = {
        format: permuted(extents_of(shape, format), order)
        for format in formats
        if isinstance(format, Block)
    }
    shape, blocks = permuted(shape, order), list(by_axis.values())
    by_rows = bool(blocks)
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
            _contiguous((count, *shape[1:]) if by_rows else (count,), by_axis.get(target.format))
            for count in (height, rows % height or height)
        )
        if plan is None or chunk is None or last is None or plan.host_only > limits.host:
            return None
        plans.append(ChunkedPlan(plan, chunk, last, numbers))
    return Chunks(
        dtype,
        math.prod(shape),
        height * inner,
        tuple(plans),
        tuple("" if target is None else target.rounding.mode for target in targets),
        any(target is not None and target.rounding.stochastic for target in targets),
        stored or dtype,
    )


def _height(
    shape: tuple[int, ...],
    rows: int,
    inner: int,
    blocks: list[tuple[int, ...]],
    limits: Limits,
) -> int:
    """Rows of a chunk: as many as the limits allow of those that blocks hold together. blocks :
    their lengths along each axis.
    """
    together = math.lcm(*(extents[0] for extents in blocks))
    most = together * max(1, limits.chunk // (together * inner))
    if limits.blocks:
        counts = (_count((min(together, rows), *shape[1:]), each) for each in blocks)
        most = min(most, together * (limits.blocks // max(counts, default=1)))
    return min(rows, most)


def _count(shape: tuple[int, ...], extents: tuple[int, ...]) -> int:
    """How many blocks there are."""
    return math.prod(-(-length // extent) for length, extent in zip(shape, extents, strict=True))


def _contiguous(shape: tuple[int, ...], extents: tuple[int, ...] | None) -> structs.Layout | None:
    """extents : of blocks in the whole tensor; None: elements by themselves."""
    strides = c_strides(shape)
    within = shape if extents is None else tuple(map(min, extents, shape))
    return layout_by(shape, strides, strides, within)
