"""What the kernels are told of a matrix product with every partial sum rounded
(`qemu_swalp.matmul`).

They compute in float64, as the reference implementation does, or in float32 if that gives the same
bits (`matmul_in_float32`).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..arrays.dtypes import SOURCE_DTYPES
from ..random_bits import RandomBits
from ..reference.accumulation import AccumulationTargets
from . import matmul_in_float32, structs
from .plan import DTYPES, Plan, plan_of

Shape = tuple[int, ...]
MASK = 0xFFFFFFFF


class Matrix(NamedTuple):
    """A matrix, or several, of a contiguous array."""

    address: int
    shape: Shape


class Computing(NamedTuple):
    """How the kernels compute a product of matrices."""

    dtype: str
    plain: int
    """Whether one rounding does for each sum (`matmul_in_float32.plainness`)."""


@lru_cache(maxsize=4096)
def limit_of(targets: AccumulationTargets, terms: int) -> int | None:
    """`matmul_in_float32.limit_of`; None where not every sum is rounded at once."""
    sums = [target for target in (targets.sum, targets.total) if target is not None]
    return matmul_in_float32.limit_of(targets.product, sums, terms) if targets.group == 1 else None


@lru_cache(maxsize=4096)
def plans_of(targets: AccumulationTargets, dtype: str) -> tuple[Plan | None, ...] | None:
    """Of products, sums and totals; None if the kernels do not round by one of the targets."""
    plans = tuple(
        None if target is None else plan_of(SOURCE_DTYPES[dtype], target)
        for target in targets.roundings
    )
    missing = any(
        plan is None and target is not None
        for plan, target in zip(plans, targets.roundings, strict=True)
    )
    return None if missing else plans


def structure_of(
    dtype: str,
    a: Shape,
    b: Shape,
    targets: AccumulationTargets,
    drawn: structs.Random,
    random: RandomBits | None,
    plain: int = 0,
) -> structs.Matmul:
    """The call for arrays of these shapes, all but where things stand. drawn : `random` as the
    kernels read it.
    """
    batches = math.prod(result_shape(a, b)[:-2])
    seed, stream = (0, 0) if random is None else (random.seed, random.stream)
    call = structs.Matmul(
        DTYPES.index(dtype), targets.group, targets.chunk or 0, plain, batches, a[-2], b[-1], a[-1]
    )
    call.random = drawn
    call.seed[:], call.stream[:] = (seed & MASK, seed >> 32), (stream & MASK, stream >> 32)
    return call


def result_shape(a: Shape, b: Shape) -> Shape:
    """Of a·b."""
    leading = a[:-2] if a[:-2] == b[:-2] else np.broadcast_shapes(a[:-2], b[:-2])
    return (*leading, a[-2], b[-1])


@lru_cache(maxsize=4096)
def firsts(shape: Shape, leading: Shape) -> np.ndarray:
    """The element at which the matrix of each batch begins in a contiguous array of that shape."""
    starts = np.arange(math.prod(shape[:-2])).reshape(shape[:-2]) * math.prod(shape[-2:])
    return np.ascontiguousarray(np.broadcast_to(starts, leading), np.int64)
