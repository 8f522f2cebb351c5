"""The compiled kernels on arrays in the host's memory."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

from ..formats import Format
from ..random_bits import RandomBits
from . import structs, threads
from .build import LIBRARY, digest
from .plan import Plan
from .strides import layout_of


class Memory(NamedTuple):
    """An array in the host's memory: address, and strides in elements."""

    address: int
    strides: tuple[int, ...]


@cache
def library() -> Any:
    """The compiled library; None where the package was built without, or from other sources than
    these.
    """
    if not LIBRARY.exists():
        return None
    try:
        found = ctypes.CDLL(str(LIBRARY))
        found.qs_sources.restype = found.qs_instruction_set.restype = ctypes.c_char_p
    except (OSError, AttributeError):
        return None
    if found.qs_sources().decode() != digest():
        return None
    found.qs_quantize.argtypes = [
        structs.PlanPointer,
        structs.LayoutPointer,
        structs.RandomPointer,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int,
    ]
    found.qs_sgd.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
    found.qs_multiply.argtypes = [ctypes.c_void_p, ctypes.c_int]
    found.qs_quantize.restype = found.qs_sgd.restype = found.qs_multiply.restype = None
    return found


def instruction_set() -> str | None:
    """The instruction set that the kernels take: avx512, avx2 or baseline; None without kernels."""
    return None if library() is None else str(library().qs_instruction_set().decode())


@contextmanager
def instructions(name: str) -> Iterator[None]:
    """Within it the kernels take that instruction set. ValueError where this machine lacks it."""
    before = instruction_set()
    if before is None or not library().qs_choose(name.encode()):
        raise ValueError(
            f"this machine's kernels do not take the instruction set {name!r}; they take {before}"
        )
    try:
        yield
    finally:
        library().qs_choose(before.encode())


def quantize(
    plan: Plan,
    format: Format,
    shape: tuple[int, ...],
    source: Memory,
    target: Memory,
    random: RandomBits | int | None,
) -> bool:
    """Round `source` into `target`, which may be the same memory, but not overlap it otherwise.

    random : `RandomBits`, or the address of a 32-bit word for each element in C order. False, and
        nothing done, where
    the layout needs a copy first.
    """
    layout = layout_of(shape, source.strides, target.strides, format)
    if layout is None:
        return False
    library().qs_quantize(
        plan.structure,
        layout,
        random_of(random),
        source.address,
        target.address,
        threads.get_num_threads(),
    )
    return True


def sgd(steps: Any) -> None:
    """Make the steps of SGD of a ctypes array of `structs.Sgd`, of one dtype."""
    library().qs_sgd(steps, len(steps), threads.get_num_threads())


def multiply(products: structs.Products) -> None:
    """Write a product of matrices in the host's memory."""
    library().qs_multiply(ctypes.addressof(products), threads.get_num_threads())


def random_of(random: RandomBits | int | None, step_at: int | None = None) -> structs.Random:
    """As the kernels take it. step_at : where in a GPU's memory the step stands, instead of in
    `random`.
    """
    if isinstance(random, RandomBits):
        step = int(random.step) if step_at is None else 0
        return structs.Random(None, step_at, random.offset, step, random.key)
    return structs.Random(random)
