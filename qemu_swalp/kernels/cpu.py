"""The compiled kernels on arrays in the host's memory."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, NamedTuple

from ..formats import Format
from ..randombits import RandomBits, round_keys, stream_key
from . import structures, threads
from .compiling import LIBRARY
from .layout import layout_of
from .plan import Plan


class Memory(NamedTuple):
    """An array in the host's memory: address, and strides in elements."""

    address: int
    strides: tuple[int, ...]


@cache
def library() -> Any:
    """The compiled library; None where the package was built without, or from other sources than these."""
    if not LIBRARY.exists():
        return None
    try:
        found = ctypes.CDLL(str(LIBRARY))
    except OSError:
        return None
    found.qs_quantize.argtypes = [structures.PlanPointer, structures.LayoutPointer, structures.RandomPointer,
                                  ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
    found.qs_quantize.restype = None
    found.qs_instruction_set.restype = ctypes.c_char_p
    sizes = ctypes.sizeof(structures.Plan), ctypes.sizeof(structures.Layout)
    return found if (found.qs_size_of_plan(), found.qs_size_of_layout()) == sizes else None


def instruction_set() -> str | None:
    """The instruction set that the kernels take on this machine, as in "AVX2"; None without kernels."""
    return None if library() is None else str(library().qs_instruction_set().decode())


def quantize(plan: Plan, format: Format, shape: tuple[int, ...], source: Memory, target: Memory,
             random: RandomBits | int | None) -> bool:
    """Round `source` into `target`, which may be the same memory, but not overlap it otherwise.

    random : `RandomBits`, or the address of a 32-bit word for each element in C order. False, and nothing done, where
    the layout needs a copy first.
    """
    layout = layout_of(shape, source.strides, target.strides, format)
    if layout is None:
        return False
    library().qs_quantize(plan.structure, layout, random_of(random), source.address, target.address,
                          threads.get_num_threads())
    return True


def random_of(random: RandomBits | int | None) -> structures.Random:
    """As the kernels take it."""
    found = structures.Random()
    if isinstance(random, RandomBits):
        found.offset, found.step = random.offset, int(random.step)
        for i, keys in enumerate(round_keys(*stream_key(random.seed, random.stream))):
            found.keys[i][:] = keys
    elif random is not None:
        found.words = random
    return found
