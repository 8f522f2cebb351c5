"""Matrix products with every partial sum rounded, of NumPy arrays and of a GPU's:
`qemu_swalp.matmul`.

The kernels compute in float64, as the array program does, or in float32 where that gives the same
bits (`single`).
"""

from __future__ import annotations

import math
from ctypes import addressof
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..arrays.dtypes import SOURCE_DTYPES
from ..random_bits import RandomBits
from ..reference.context import Target
from . import cpu, structs
from . import matmul_in_float32 as single
from .plan import DTYPES, Plan, plan_of

Shape = tuple[int, ...]
MASK = 0xFFFFFFFF


class Rules(NamedTuple):
    """How products, sums and totals are rounded; None: not, or there are none. group, chunk : as in
    `Accumulation`.
    """

    product: Target | None
    sum: Target
    total: Target | None
    group: int
    chunk: int | None

    @property
    def kinds(self) -> tuple[Target | None, Target, Target | None]:
        return self.product, self.sum, self.total


def matmul(
    a: np.ndarray, b: np.ndarray, rules: Rules, random: RandomBits | None
) -> np.ndarray | None:
    """As `qemu_swalp.matmul` of checked float32 or float64 arrays with elements; in their dtype or
    in float64. None where the kernels do not round so.
    """
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    limit = limit_of(rules, a.shape[-1]) if a.dtype == np.float32 else None
    dtype = "float32" if limit is not None and single.suffices(a, b, limit) else "float64"
    plans = plans_of(rules, dtype)
    if plans is None:
        return None
    a, b = a.astype(dtype, copy=False), b.astype(dtype, copy=False)
    out = np.empty(result_shape(a.shape, b.shape), dtype)
    call = structure_of(dtype, a.shape, b.shape, rules, cpu.random_of(random), random)
    call.first_a, call.first_b = (firsts(x.shape, out.shape[:-2]).ctypes.data for x in (a, b))
    call.a, call.b, call.out = (x.ctypes.data for x in (a, b, out))
    call.plans = structs.Plans(
        *(None if plan is None else addressof(plan.structure) for plan in plans)
    )
    cpu.multiply(call)
    return out


@lru_cache(maxsize=4096)
def limit_of(rules: Rules, terms: int) -> int | None:
    """`single.limit_of`; None where not every sum is rounded at once."""
    sums = [rule for rule in (rules.sum, rules.total) if rule is not None]
    return single.limit_of(rules.product, sums, terms) if rules.group == 1 else None


@lru_cache(maxsize=4096)
def plans_of(rules: Rules, dtype: str) -> tuple[Plan | None, ...] | None:
    """Of products, sums and totals; None where the kernels do not round so."""
    found = tuple(
        None if rule is None else plan_of(SOURCE_DTYPES[dtype], *rule) for rule in rules.kinds
    )
    there = [
        plan is not None or rule is None for plan, rule in zip(found, rules.kinds, strict=True)
    ]
    return found if all(there) else None


def structure_of(
    dtype: str, a: Shape, b: Shape, rules: Rules, drawn: structs.Random, random: RandomBits | None
) -> structs.Products:
    """The call for arrays of these shapes, all but where things stand. drawn : `random` as the
    kernels take it.
    """
    batches = math.prod(result_shape(a, b)[:-2])
    seed, stream = (0, 0) if random is None else (random.seed, random.stream)
    found = structs.Products(
        DTYPES.index(dtype), rules.group, rules.chunk or 0, batches, a[-2], b[-1], a[-1]
    )
    found.random = drawn
    found.seed[:], found.stream[:] = (seed & MASK, seed >> 32), (stream & MASK, stream >> 32)
    return found


def result_shape(a: Shape, b: Shape) -> Shape:
    """Of a·b."""
    return (*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1])


@lru_cache(maxsize=4096)
def firsts(shape: Shape, leading: Shape) -> np.ndarray:
    """The element at which the matrix of each batch begins in a contiguous array of that shape."""
    places = np.arange(math.prod(shape[:-2])).reshape(shape[:-2]) * math.prod(shape[-2:])
    return np.ascontiguousarray(np.broadcast_to(places, leading), np.int64)
