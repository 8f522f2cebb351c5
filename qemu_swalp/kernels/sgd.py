"""One step of quantized SGD in one pass over memory, for NumPy arrays (`training.sgd.sgd_step` is what it equals)."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..carriers import CARRIERS
from ..formats import Block, Format, Overflow
from ..randombits import RandomBits
from ..rounding import Rounding
from . import cpu, structures, threads
from .layout import layout_of
from .plan import Plan, plan_of

CHUNK = 8192
"""Elements to work on at a time: with gradient, momentum and weight they stay in the cache."""
MOST = 1 << 17
"""Rows that cannot be parted into chunks of less are not taken: the cache would not hold them."""
ROLES = ("gradient", "momentum", "accumulator", "weight")

Rule = tuple[Format, Overflow, Rounding] | None
"""How a role is rounded; the dtype holds the format."""


class Buffers(NamedTuple):
    """What a step reads or writes of one tensor: C-contiguous arrays of one shape and dtype."""

    weight: np.ndarray
    velocity: np.ndarray | None
    accumulator: np.ndarray | None


@dataclass(frozen=True)
class Numbers:
    """Hyper-parameters, Python numbers."""

    learning_rate: float
    momentum: float
    dampening: float
    weight_decay: float
    nesterov: bool
    maximize: bool


@dataclass(frozen=True, eq=False)
class Chunks:
    """How a tensor is parted. `roles`: for each role its plan and the layouts of a chunk and of the last one."""

    elements: int
    roles: tuple[tuple[Plan, structures.Layout, structures.Layout] | None, ...]


@lru_cache(maxsize=4096)
def chunks_of(shape: tuple[int, ...], dtype: str, rules: tuple[Rule, ...]) -> Chunks | None:
    """The chunks of a tensor; None where the roles' blocks do not let it be parted into small ones."""
    carrier = CARRIERS[dtype]
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
    step = min(rows, together * max(1, CHUNK // (together * inner)))
    if step * inner > MOST:
        return None
    found: list[tuple[Plan, structures.Layout, structures.Layout] | None] = []
    for rule in rules:
        if rule is None:
            found.append(None)
            continue
        format, policy, rounding = rule
        plan = plan_of(carrier, format, policy, rounding)
        tail = rows % step or step
        layouts = [_contiguous((count, *shape[1:]) if blocks and shape else (count,), format) for count in (step, tail)]
        if plan is None or layouts[0] is None or layouts[1] is None:
            return None
        found.append((plan, layouts[0], layouts[1]))
    return Chunks(step * inner, tuple(found))


def _contiguous(shape: tuple[int, ...], format: Format) -> structures.Layout | None:
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return layout_of(shape, strides, strides, format)


def takes(gradient: Any, old: Buffers, new: Buffers) -> bool:
    """Whether the kernels take these arrays."""
    arrays = [a for a in (gradient, *old, *new) if a is not None]
    first = arrays[0]
    return cpu.library() is not None and all(
        type(a) is np.ndarray and a.dtype == first.dtype and a.shape == first.shape and a.flags.c_contiguous
        and a.flags.aligned for a in arrays) and first.dtype in (np.float32, np.float64) and first.size > 0


def step(gradient: np.ndarray, old: Buffers, new: Buffers, numbers: Numbers, chunks: Chunks,
         random: tuple[RandomBits | None, ...]) -> None:
    """Read `gradient` and `old`, write `new`, which may be the same arrays. random: for each role."""
    call = structures.Sgd(
        dtype=list(CARRIERS).index(str(gradient.dtype)), elements=gradient.size, chunk_elements=chunks.elements,
        learning_rate=numbers.learning_rate, momentum=numbers.momentum, gain=1 - numbers.dampening,
        weight_decay=numbers.weight_decay, nesterov=numbers.nesterov, maximize=numbers.maximize,
        has_momentum=bool(numbers.momentum), has_decay=bool(numbers.weight_decay), gradient=_address(gradient),
        weight=_address(old.weight), velocity=_address(old.velocity), accumulator=_address(old.accumulator),
        new_weight=_address(new.weight), new_velocity=_address(new.velocity),
        new_accumulator=_address(new.accumulator))
    for name, role, bits in zip(ROLES, chunks.roles, random, strict=True):
        if role is not None:
            plan, chunk, last = role
            setattr(call, f"{name}_role", structures.Role(ctypes.addressof(plan.structure), ctypes.addressof(chunk),
                                                          ctypes.addressof(last), cpu.random_of(bits)))
    cpu.library().qs_sgd(ctypes.byref(call), 1, threads.get_num_threads())


def _address(x: np.ndarray | None) -> int | None:
    return None if x is None else x.__array_interface__["data"][0]
