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

from ..arrays.dtypes import SourceDtype
from ..formats import Block
from ..reference.context import Target
from . import cpu, structs, threads
from .layouts import fingerprint
from .plan import Plan, plan_of

RANDOM_KINDS = ("none", "words", "counters")
MOST_BYTES = 1 << 21
"""Of a call; compilers that print and parse their programs are slow with more."""
TARGET = "qemu_swalp_quantize"
"""Name of XLA's custom call."""


@lru_cache(maxsize=4096)
def stored_call(source: SourceDtype, target: Target, rank: int, random: str) -> bytes | None:
    """The bytes of a call that rounds arrays of that rank; None if the kernels do not support the
    target.

    random : one of `RANDOM_KINDS`, which the operands after the array are.
    """
    format, plan = target.format, plan_of(source, target)
    if plan is None:
        return None
    extents = [0] * structs.MOST_AXES
    if isinstance(format, Block):
        if rank > structs.MOST_AXES:
            return None
        extents[:rank] = (extent or 0 for extent in format.extents(rank))
    return _bytes(plan, struct.pack("2i", RANDOM_KINDS.index(random), rank), extents)


def _bytes(plan: Plan, kind: bytes, extents: list[int]) -> bytes | None:
    structure = structs.Plan.from_buffer_copy(plan.structure)
    pointers = [(at, value) for at, value in _pointers(structs.Plan, 0, structure) if value]
    head = (
        struct.pack("Q", fingerprint())
        + kind
        + struct.pack(f"{len(extents)}qQ", *extents, len(pointers))
    )
    place = len(head) + sizeof(structs.Plan) + 16 * len(pointers)
    starts, parts = {}, []  # address of an array → its place; two structures may share one
    for array in plan.arrays:
        if array.ctypes.data not in starts:
            starts[array.ctypes.data] = place
            parts.append(array.tobytes() + bytes(-array.nbytes % 8))
            place += len(parts[-1])
    if place > MOST_BYTES:
        return None
    pairs = []
    for at, value in pointers:
        c_void_p.from_buffer(structure, at).value = None
        pairs.append(struct.pack("2Q", at, starts[value]))
    return b"".join([head, bytes(structure), *pairs, *parts])


def _pointers(
    kind: type[Structure], offset: int, structure: structs.Plan
) -> Iterator[tuple[int, int | None]]:
    """(offset in the plan, value) of all pointers in a structure at an offset."""
    for name, field, *_ in kind._fields_:
        at = offset + getattr(kind, name).offset
        if field is c_void_p:
            yield at, c_void_p.from_buffer(structure, at).value
        elif issubclass(field, Structure):
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
