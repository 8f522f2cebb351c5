"""Calls of the kernels as bytes, which programs of JAX and TensorFlow hold as an attribute.

They mean the same in every process (`src/cpu/stored_call.h` reads them), so that a program may
outlive all objects of Python, and be saved.
"""

from __future__ import annotations

import ctypes
import struct
import warnings
from collections.abc import Iterator
from ctypes import Structure, c_void_p, sizeof
from functools import cache, lru_cache

import numpy as np

from ..arrays.dtypes import SourceDtype
from ..formats import Block
from ..reference.context import Target
from ..reference.scale_formats import fractional
from . import cpu, structs, threads
from .given import scale_plan
from .layouts import fingerprint
from .plan import plan_of

RANDOM_KINDS = ("none", "words", "counters")
SCALE_KINDS = ("none", "float32", "float64")
MOST_BYTES = 1 << 21
"""Of a call; compilers that print and parse their programs are slow with more."""
TARGET = "qemu_swalp_quantize"
"""Name of XLA's custom call."""


@lru_cache(maxsize=4096)
def stored_call(
    source: SourceDtype, target: Target, rank: int, random: str, scales: str = "none"
) -> bytes | None:
    """The bytes of a call that rounds arrays of that rank; None if the kernels do not support the
    target.

    random : one of `RANDOM_KINDS`, which the operands after the array are.
    scales : one of `SCALE_KINDS`, the dtype of the scales that are given: the operand after these,
        which zero points follow where the format has them.
    """
    format, plan = target.format, plan_of(source, target, scales != "none")
    if plan is None:
        return None
    head = structs.StoredCall(
        layouts=fingerprint(),
        random=RANDOM_KINDS.index(random),
        scales=SCALE_KINDS.index(scales),
        most_zero_point=-1,
        rank=rank,
        plan=plan.structure,
    )
    arrays = list(plan.arrays)
    if isinstance(format, Block):
        if rank > structs.MOST_AXES:
            return None
        head.extents[:rank] = [extent or 0 for extent in format.extents(rank)]
        if scales != "none" and not format.powers:
            of_scales = scale_plan(format)
            head.scale_plan, head.least_scale = of_scales.structure, fractional(format).min_positive
            arrays += of_scales.arrays
        if scales != "none" and format.rule == "minmax":
            head.most_zero_point = int(format.element.max)
    return _bytes(head, arrays)


def _bytes(head: structs.StoredCall, arrays: list[np.ndarray]) -> bytes | None:
    pointers = [(at, value) for at, value in _pointers(structs.StoredCall, 0, head) if value]
    head.pointer_count = len(pointers)
    place = sizeof(head) + 16 * len(pointers)
    starts, parts = {}, []  # address of an array → its place; two structures may share one
    for array in arrays:
        if array.ctypes.data not in starts:
            starts[array.ctypes.data] = place
            parts.append(array.tobytes() + bytes(-array.nbytes % 8))
            place += len(parts[-1])
    if place > MOST_BYTES:
        return None
    pairs = []
    for at, value in pointers:
        c_void_p.from_buffer(head, at).value = None
        pairs.append(struct.pack("2Q", at, starts[value]))
    return b"".join([bytes(head), *pairs, *parts])


def _pointers(
    kind: type[Structure], offset: int, structure: Structure
) -> Iterator[tuple[int, int | None]]:
    """(offset in the whole, value) of all pointers in a structure at an offset."""
    for name, field, *_ in kind._fields_:
        at = offset + getattr(kind, name).offset
        if field is c_void_p:
            yield at, c_void_p.from_buffer(structure, at).value
        elif isinstance(field, type) and issubclass(field, Structure):
            yield from _pointers(field, at, structure)


@cache
def share_threads() -> None:
    """Let calls of programs use as many threads as `get_num_threads` says."""
    number = threads.number_in_memory()
    # Never freed: a program's threads may run when the interpreter has ended.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(number))
    cpu.library().qs_share_threads(ctypes.byref(number))


def calls() -> int:
    """How many calls of programs have run in this process."""
    return 0 if cpu.library() is None else int(cpu.library().qs_calls())


def warn_of_refusal(library: str, reason: str) -> None:
    """Say once that a library's programs do without the kernels."""
    warnings.warn(
        f"{library} uses the reference implementation, with the same results, and is slower:"
        f" {reason}. `qemu-swalp info` shows the path of each library;"
        " QEMU_SWALP_KERNELS=off chooses this one",
        stacklevel=2,
    )
