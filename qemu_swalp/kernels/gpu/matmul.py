"""Matrix products with every partial sum rounded, in a GPU's memory (`src/cuda/matmul.cu`)."""

from __future__ import annotations

import math
from ctypes import sizeof
from functools import lru_cache

import numpy as np

from ...random_bits import RandomBits
from ...reference.accumulation import AccumulationTargets
from .. import structs
from ..build import CudaProgram
from ..matmul_plan import (
    Matrix,
    Shape,
    limit_of,
    plans_of,
    result_shape,
    structure_of,
)
from ..plan import Plan
from ..strides import c_strides, operands_of
from .copies import Copy, Placed
from .device import THREADS, Device, copy_of, launch, plan_on

ELEMENTS = 1 << 14
"""So many that a thread block looks at before a product."""


def matmul(
    device: Device,
    dtype: str,
    a: Matrix,
    b: Matrix,
    out: int,
    targets: AccumulationTargets,
    drawn: structs.Random,
    random: RandomBits | None,
) -> bool:
    """As `Processor.matmul`, of arrays in the memory of the device."""
    plans, single = (
        plans_of(targets, "float64"),
        plans_of(targets, "float32") if dtype == "float32" else None,
    )
    limit = None if single is None else limit_of(targets, a.shape[-1])
    if plans is None:
        return False
    batches = _batches(a.shape[:-2], b.shape[:-2])
    if batches is None:
        return False
    call = structs.MatmulCall(structure_of(dtype, a.shape, b.shape, targets, drawn, random))
    call.batches = batches
    call.matmul.a, call.matmul.b, call.matmul.out = a.address, b.address, out
    placed = _plans(plans, device)
    call.matmul.plans, copies = placed.structure, placed.copies
    spans = None  # alive until all is launched: from then on the stream keeps it
    if limit is not None and single is not None:
        spans = device.zeros(2 * sizeof(structs.Span))
        look = structs.SpanCall(spans=spans[0])
        look.arrays[:], look.counts[:] = (
            (a.address, b.address),
            (math.prod(a.shape), math.prod(b.shape)),
        )
        launch(device, program_of(targets), "qs_span", -(-max(look.counts) // ELEMENTS), look)
        placed = _plans(single, device)
        call.single, copies = placed.structure, copies + placed.copies
        call.spans, call.limit = spans[0], limit
    elements = math.prod(result_shape(a.shape, b.shape))
    launch(device, program_of(targets), "qs_matmul", -(-elements // THREADS), call)
    device.hold(copies, (spans,))
    return True


def program_of(targets: AccumulationTargets) -> CudaProgram:
    """The program that multiplies to these targets."""
    product, sum, total = (
        "nearest_even" if target is None else target.rounding.mode for target in targets.roundings
    )
    return CudaProgram(
        "cuda/matmul.cu",
        (
            ("QS_PRODUCT", product),
            ("QS_SUM", sum),
            ("QS_TOTAL", total),
            ("QS_HAS_PRODUCT", str(int(targets.product is not None))),
            ("QS_HAS_TOTAL", str(int(targets.total is not None))),
            ("QS_THREADS", str(THREADS)),
        ),
    )


def _plans(plans: tuple[Plan | None, ...], device: Device) -> Placed[structs.MatmulPlans]:
    found = [None if plan is None else _plan_copy(plan, device) for plan in plans]
    return Placed(
        structs.MatmulPlans(*(None if copy is None else copy.address for copy in found)),
        tuple(copy for copy in found if copy is not None),
    )


def _plan_copy(plan: Plan, device: Device) -> Copy:
    def make() -> Copy:
        placed = plan_on(device, plan)
        return copy_of(device, placed.structure, placed.copies)

    found: Copy = device.copies.recent(("of products", plan), make)
    return found


@lru_cache(maxsize=4096)
def _batches(a: Shape, b: Shape) -> structs.Layout | None:
    """Axes of the batches of a product, with the matrices from one to the next of both operands:
    none where an operand is broadcast.
    """
    leading = np.broadcast_shapes(a, b)
    steps = (
        tuple(
            0 if length == 1 else stride
            for length, stride in zip(padded, c_strides(padded), strict=True)
        )
        for padded in ((1,) * (len(leading) - len(own)) + own for own in (a, b))
    )
    return operands_of(leading, *steps)
