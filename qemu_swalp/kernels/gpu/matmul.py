"""Matrix products with every partial sum rounded, in a GPU's memory (`src/cuda/matmul.cu`)."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ...random_bits import RandomBits
from .. import structs
from ..build import CudaProgram
from ..matmul_plan import Rules, Shape, firsts, limit_of, plans_of, result_shape, structure_of
from ..plan import Plan
from .launch import RESIDENT, THREADS, Device, on_device

SPANS = 24
"""Bytes of two spans."""
ELEMENTS = 1 << 14
"""So many that a thread block looks at before a product."""


class Matrix(NamedTuple):
    """A matrix, or several, of a contiguous array in the memory of the device: its address and
    shape.
    """

    address: int
    shape: Shape


def matmul(
    device: Device,
    dtype: str,
    a: Matrix,
    b: Matrix,
    out: int,
    rules: Rules,
    drawn: structs.Random,
    random: RandomBits | None,
) -> bool:
    """Write a·b, whose operands have elements, to the address `out`; all of that dtype, float32 or
    float64. False, and nothing done, where the kernels do not round so. drawn : `random` as the
    kernels take it.
    """
    plans, single = (
        plans_of(rules, "float64"),
        plans_of(rules, "float32") if dtype == "float32" else None,
    )
    limit = None if single is None else limit_of(rules, a.shape[-1])
    if plans is None:
        return False
    leading = result_shape(a.shape, b.shape)[:-2]
    call = structs.ProductsCall(structure_of(dtype, a.shape, b.shape, rules, drawn, random))
    call.products.first_a, call.products.first_b = (
        _firsts(x.shape, leading, device) for x in (a, b)
    )
    call.products.a, call.products.b, call.products.out = a.address, b.address, out
    call.products.plans = _plans(plans, device)
    spans = None  # until all is launched: then the stream keeps it
    if limit is not None and single is not None:
        spans = device.zeros(SPANS)
        look = structs.SpanCall(spans=spans[0])
        look.arrays[:], look.counts[:] = (
            (a.address, b.address),
            (math.prod(a.shape), math.prod(b.shape)),
        )
        device.launch(
            program_of(rules),
            "qs_span",
            min(-(-max(look.counts) // ELEMENTS), RESIDENT * device.processors),
            look,
        )
        call.single, call.spans, call.limit = _plans(single, device), spans[0], limit
    elements = math.prod(result_shape(a.shape, b.shape))
    device.launch(
        program_of(rules),
        "qs_multiply",
        min(-(-elements // THREADS), RESIDENT * device.processors),
        call,
    )
    return True


def program_of(rules: Rules) -> CudaProgram:
    """Of what multiplies by these rules."""
    product, sum, total = (
        "nearest_even" if rule is None else rule.rounding.mode for rule in rules.kinds
    )
    return CudaProgram(
        "cuda/matmul.cu",
        (
            ("QS_PRODUCT", product),
            ("QS_SUM", sum),
            ("QS_TOTAL", total),
            ("QS_HAS_PRODUCT", str(int(rules.product is not None))),
            ("QS_HAS_TOTAL", str(int(rules.total is not None))),
            ("QS_THREADS", str(THREADS)),
        ),
    )


def _plans(plans: tuple[Plan | None, ...], device: Device) -> structs.Plans:
    return structs.Plans(*(None if plan is None else _kept(plan, device) for plan in plans))


@lru_cache(maxsize=4096)
def _kept(plan: Plan, device: Device) -> int:
    return device.keep(np.frombuffer(bytes(on_device(plan, device)), np.uint8))


@lru_cache(maxsize=4096)
def _firsts(shape: Shape, leading: Shape, device: Device) -> int:
    return device.keep(firsts(shape, leading))
