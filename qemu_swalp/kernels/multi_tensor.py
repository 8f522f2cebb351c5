"""Steps of quantized SGD in one pass over memory, all tensors in one call: `training.sgd.sgd_step`
for each.

Routes that take them (`kernels.route_of`, the module of an array library) have, beside `takes` and
`quantize`: kind(x) : what tensors of one call have in common, the name of their dtype first; None
for memory that is not taken. address(x), writable(x), empty_like(x) : of arrays that `kind` takes.
SGD_LIMITS : `Limits` of a chunk.
structure(chunks, kind) : `Chunks.structure`, its pointers good where the arrays are.
sgd(steps, kind, chunks) : make these steps, a ctypes array of `structs.Sgd` of one kind; chunks:
those of each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from ctypes import addressof
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..arrays.dtypes import SOURCE_DTYPES
from ..formats import Block, Format
from ..reference.context import Target
from . import structs
from .plan import Plan, plan_of
from .strides import layout_of

ROLES = ("gradient", "momentum", "accumulator", "weight")
COLUMNS = np.dtype(structs.Sgd)


class Limits(NamedTuple):
    """Of chunks. chunk : elements to work on at a time. most : elements of rows that cannot be
    parted, beyond which a tensor is not taken. blocks : most blocks of a role; 0: any number.
    """

    chunk: int
    most: int
    blocks: int = 0


class Memory(NamedTuple):
    """Addresses of what a step reads and writes of one tensor, 0 for what is not there:
    C-contiguous arrays of one shape and dtype. What is written may be what is read. Without a
    gradient the weight is only rounded.
    """

    gradient: int
    weight: int
    velocity: int
    accumulator: int
    new_weight: int
    new_velocity: int
    new_accumulator: int


class Numbers(NamedTuple):
    """Hyper-parameters, Python numbers. gain : 1 - dampening."""

    learning_rate: float
    momentum: float
    gain: float
    weight_decay: float
    nesterov: bool
    maximize: bool
    has_momentum: bool
    has_decay: bool


class Words(NamedTuple):
    """Which random words, by the step and for each role by the key of its stream."""

    step: int
    keys: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Chunks:
    """How a tensor is parted. structure : bytes of the `structs.Sgd` that holds no more than this.
    roles : for each role its plan and the layouts of a chunk and of the last one, into which
        `structure` points.
    modes : of the roles' roundings, "" for one that is not rounded. stochastic : whether any role
        draws random words.
    """

    structure: bytes
    modes: tuple[str, ...]
    stochastic: bool
    roles: tuple[tuple[Plan, structs.Layout, structs.Layout] | None, ...]


@lru_cache(maxsize=4096)
def chunks_of(
    shape: tuple[int, ...], dtype: str, rules: tuple[Target | None, ...], limits: Limits
) -> Chunks | None:
    """The chunks of a tensor; None where the roles' blocks do not let it be parted into small
    ones.
    """
    carrier = SOURCE_DTYPES[dtype]
    formats = [rule[0] for rule in rules if rule is not None]
    blocks = [format for format in formats if isinstance(format, Block)]
    if any(block.second is not None for block in blocks):
        return None
    rows, inner = (shape[0], math.prod(shape[1:])) if blocks and shape else (math.prod(shape), 1)
    together = 1
    for block in blocks:
        extent = block.extents(max(len(shape), 1))[0]
        if extent is None:
            together = rows
            break
        together = math.lcm(together, extent)
    most = together * max(1, limits.chunk // (together * inner))
    if limits.blocks:
        fewest = max(
            (_count((min(together, rows), *shape[1:]), block) for block in blocks if shape),
            default=1,
        )
        most = min(most, together * (limits.blocks // fewest))
    step = min(rows, most)
    if not 0 < step * inner <= limits.most:
        return None
    found: list[tuple[Plan, structs.Layout, structs.Layout] | None] = []
    for rule in rules:
        if rule is None:
            found.append(None)
            continue
        format, policy, rounding = rule
        plan = plan_of(carrier, format, policy, rounding)
        tail = rows % step or step
        layouts = [
            _contiguous((count, *shape[1:]) if blocks and shape else (count,), format)
            for count in (step, tail)
        ]
        if plan is None or layouts[0] is None or layouts[1] is None:
            return None
        found.append((plan, layouts[0], layouts[1]))
    parted = structs.Sgd(
        list(SOURCE_DTYPES).index(dtype), elements=math.prod(shape), chunk_elements=step * inner
    )
    for name, role in zip(ROLES, found, strict=True):
        if role is not None:
            setattr(
                parted,
                f"{name}_role",
                structs.Role(*map(addressof, (role[0].structure, *role[1:]))),
            )
    stochastic = any(rule is not None and rule[2].stochastic for rule in rules)
    modes = tuple("" if rule is None else rule[2].mode for rule in rules)
    return Chunks(bytes(parted), modes, stochastic, tuple(found))


def _count(shape: tuple[int, ...], block: Block) -> int:
    """How many blocks there are."""
    return math.prod(
        -(-length // (extent or length))
        for length, extent in zip(shape, block.extents(len(shape)), strict=True)
    )


def _contiguous(shape: tuple[int, ...], format: Format) -> structs.Layout | None:
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return layout_of(shape, strides, strides, format)


class Step(NamedTuple):
    """One tensor's step. kind : as its route tells."""

    route: Any
    kind: Any
    chunks: Chunks
    memory: Memory
    numbers: Numbers
    words: Words


def run(steps: Sequence[Step]) -> None:
    """Make the steps: one call for each route and kind. One after the other where what they write
    overlaps.
    """
    groups: dict[Any, list[Step]] = {}
    for step in steps:
        groups.setdefault((step.route, step.kind), []).append(step)
    for group in groups.values():
        found = _structures(group)
        together = len(found) if _apart(found) else 1
        for first in range(0, len(found), together):
            calls, made = found[first : first + together], group[first : first + together]
            made[0].route.sgd(
                (structs.Sgd * len(calls)).from_buffer(calls.data),
                made[0].kind,
                [step.chunks for step in made],
            )


def _structures(steps: list[Step]) -> np.ndarray:
    """The `structs.Sgd` of each, filled in column by column, which takes a tenth of the time."""
    found = np.frombuffer(
        bytearray().join(step.route.structure(step.chunks, step.kind) for step in steps), COLUMNS
    )
    for rows in ([step.memory for step in steps], [step.numbers for step in steps]):
        for name, column in zip(rows[0]._fields, zip(*rows, strict=True), strict=True):
            found[name] = column
    for name, keys in zip(
        ROLES, zip(*(step.words.keys for step in steps), strict=True), strict=True
    ):
        random = found[f"{name}_role"]["random"]
        random["step"] = [step.words.step for step in steps]
        random["key"] = keys
    return found


def _apart(calls: np.ndarray) -> bool:
    """Whether no two of the arrays that are written share memory, as weights that are tied may."""
    sizes = (
        calls["elements"]
        * np.array([SOURCE_DTYPES[name].storage // 8 for name in SOURCE_DTYPES])[calls["dtype"]]
    )
    starts = np.concatenate(
        [calls[name] for name in Memory._fields if name.startswith("new_")]
    ).astype(np.int64)
    ends = starts + np.tile(sizes, 3)
    order = np.argsort(starts)
    order = order[starts[order] > 0]
    return bool((ends[order[:-1]] <= starts[order[1:]]).all())
