"""Many tensors in one call of the kernels for each dtype and processor: rounded, or stepped by
quantized SGD (`training.sgd.sgd_step`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import Structure
from typing import Any, NamedTuple

import numpy as np

from ..arrays.dtypes import SOURCE_DTYPES
from . import structs
from .chunks import Chunks
from .plan import DTYPES
from .processor import Processor

ROLES = ("gradient", "momentum", "accumulator", "weight")
SGD_ROUNDINGS = tuple(f"{role}_rounding" for role in ROLES)
SIZES = np.array([dtype.storage // 8 for dtype in SOURCE_DTYPES.values()])
"""Bytes of an element, in the order of `plan.DTYPES`."""
Key = tuple[int, int]
"""Of a random stream."""


class TensorRounding(NamedTuple):
    """A tensor to round, a C-contiguous array, from one address to another or in place."""

    processor: Processor
    chunks: Chunks
    source: int
    target: int
    step: int
    key: Key


class SgdMemory(NamedTuple):
    """Addresses of what a step reads and writes of one tensor, 0 for what does not exist:
    arrays of one shape and dtype, which lie in memory alike, without a gap. What is written may be
    what is read.
    """

    gradient: int
    weight: int
    velocity: int
    accumulator: int
    new_weight: int
    new_velocity: int
    new_accumulator: int


class SgdNumbers(NamedTuple):
    """Hyper-parameters, Python numbers."""

    learning_rate: float
    momentum: float
    gain: float
    """1 - dampening."""
    weight_decay: float
    nesterov: bool
    maximize: bool
    has_momentum: bool
    has_decay: bool


class SgdStep(NamedTuple):
    """One tensor's step of SGD."""

    processor: Processor
    chunks: Chunks
    memory: SgdMemory
    numbers: SgdNumbers
    step: int
    keys: tuple[Key, ...]
    """For each role."""


def round_many(tensors: Sequence[TensorRounding]) -> None:
    """Round tensors, in their order if what is written overlaps."""
    for group in _groups(tensors):
        processor = group[0].processor
        rows, owners = _structures(group, structs.TensorRounding, ("rounding",))
        for name in ("source", "target"):
            rows[name] = [getattr(tensor, name) for tensor in group]
        random = rows["rounding"]["random"]
        random["step"], random["key"] = [t.step for t in group], [t.key for t in group]
        _in_turn(group, rows, "dtype", ("target",), processor.round_many)
        del owners


def sgd(steps: Sequence[SgdStep]) -> None:
    """Make steps of SGD, in their order if what is written overlaps."""
    for group in _groups(steps):
        rows, owners = _structures(group, structs.SgdTensor, SGD_ROUNDINGS)
        parts: tuple[list[Any], list[Any]] = [s.memory for s in group], [s.numbers for s in group]
        for part in parts:
            for name, column in zip(part[0]._fields, zip(*part, strict=True), strict=True):
                rows[name] = column
        rows["stored"] = [DTYPES.index(step.chunks.stored) for step in group]
        numbers = [step.step for step in group]
        for name, keys in zip(
            SGD_ROUNDINGS, zip(*(step.keys for step in group), strict=True), strict=True
        ):
            random = rows[name]["random"]
            random["step"], random["key"] = numbers, keys
        written = tuple(name for name in SgdMemory._fields if name.startswith("new_"))
        _in_turn(group, rows, "stored", written, group[0].processor.sgd)
        del owners


def _groups(tensors: Sequence[Any]) -> list[list[Any]]:
    """Tensors of one processor and dtype each."""
    groups: dict[Any, list[Any]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.processor, tensor.chunks.dtype), []).append(tensor)
    return list(groups.values())


def _structures(
    group: list[Any], kind: type[Structure], names: tuple[str, ...]
) -> tuple[np.ndarray, object]:
    """The structure of each tensor, to be filled in column by column: a tenth of the time that
    ctypes needs for one after the other. The owners of what they point to are needed until they
    have been used.
    """
    processor = group[0].processor
    found = [processor.structure(tensor.chunks, kind, names) for tensor in group]
    joined = bytearray().join(structure for structure, _ in found)
    return np.frombuffer(joined, np.dtype(kind)), found


def _in_turn(
    group: list[Any],
    rows: np.ndarray,
    dtype: str,
    written: tuple[str, ...],
    call: Callable[[np.ndarray, list[Chunks]], None],
) -> None:
    """All in one call; one call for each if what they write overlaps, as tied weights do. dtype :
    the field that has that of the arrays.
    """
    chunks = [tensor.chunks for tensor in group]
    if _apart(rows, SIZES[rows[dtype]], written):
        call(rows, chunks)
        return
    for i in range(len(group)):
        call(rows[i : i + 1], chunks[i : i + 1])


def _apart(rows: np.ndarray, size: np.ndarray, written: tuple[str, ...]) -> bool:
    """Whether no two of the arrays that are written share memory. size : bytes of an element."""
    sizes = rows["elements"] * size
    starts = np.concatenate([rows[name] for name in written]).astype(np.int64)
    ends = starts + np.tile(sizes, len(written))
    order = np.argsort(starts)
    order = order[starts[order] > 0]
    return bool((ends[order[:-1]] <= starts[order[1:]]).all())
