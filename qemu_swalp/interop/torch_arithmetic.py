"""Elementwise operations and sums of `qemu_swalp.ops` on CPU tensors, by a call of the kernels that
is prepared once for each operation, quantizer and dtype.

Small tensors cost what is asked and checked on the way; here the checks of a quantizer are those of
the first call. What is not prepared, such as stochastic rounding, is left to `qemu_swalp.ops`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import kernels
from ..arrays.dtypes import SOURCE_DTYPES
from ..formats.base import forget_on_redefinition
from ..kernels import cpu, structs
from ..kernels.backends.torch import BACKEND, NAMES
from ..kernels.matmul_plan import Matrix
from ..kernels.plan import DTYPES, Plan, plan_of
from ..kernels.strides import Shape, operands_of
from ..ops.accumulation import Accumulation
from ..ops.arguments import check_representable
from ..ops.elementwise import target_of
from ..ops.quantizer import Quantizer
from ..reference.accumulation import AccumulationTargets
from ..reference.context import BINARY64
from ..reference.overflow import MARK

NO_RANDOM = structs.Random()
"""Of roundings without random bits."""

HOST = torch.device("cpu")
"""Whatever PyTorch's default device is."""

KEPT = 1 << 16
"""Longer rows of ones are made for each sum."""


class Prepared(NamedTuple):
    """What the kernel is told of an operation, whatever it works on."""

    operation: int
    dtype: int
    plan: Plan


def operated(operation: str, operands: Sequence[Tensor], quantizer: str) -> Tensor | None:
    """`qemu_swalp.add` and so on, of one or two tensors; None where that is not prepared.

    Errors are those of `qemu_swalp.add`.
    """
    a, b = operands[0], operands[-1]
    if not _accepts(a) or not (a is b or (_accepts(b) and a.dtype == b.dtype)):
        return None
    prepared = _prepared(operation, quantizer, a.dtype)
    found = None if prepared is None else _layout(a.shape, a.stride(), b.shape, b.stride())
    if prepared is None or found is None:
        return None
    shape, layout = found
    result = torch.empty(shape, dtype=a.dtype, device=HOST)
    cpu.library().qs_operate(
        prepared.operation,
        prepared.dtype,
        prepared.plan.structure,
        layout,
        NO_RANDOM,
        a.data_ptr(),
        b.data_ptr(),
        result.data_ptr(),
        kernels.get_num_threads(),
    )
    return result


def summed(x: Tensor, accumulation: str) -> Tensor | None:
    """`qemu_swalp.sum` over the last axis, which is kept; None where that is not prepared."""
    if not x.ndim or not x.numel() or not _accepts(x):
        return None
    targets = _targets(accumulation, x.dtype)
    if targets is None:
        return None
    terms = x.shape[-1]
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    columns = x.detach().reshape(-1, terms).t().to(dtype).contiguous()
    ones = _ones(terms, dtype) if terms <= KEPT else torch.ones(terms, dtype=dtype, device=HOST)
    result = torch.empty((*x.shape[:-1], 1), dtype=dtype, device=HOST)
    done = cpu.CPU.matmul(
        NAMES[dtype],
        Matrix(ones.data_ptr(), (1, terms)),
        Matrix(columns.data_ptr(), (terms, columns.shape[1])),
        result.data_ptr(),
        targets,
        NO_RANDOM,
        None,
    )
    return result.to(x.dtype) if done else None


def _accepts(x: Tensor) -> bool:
    return x.is_cpu and not x.is_neg() and kernels.enabled() and BACKEND.accepts(x)


@lru_cache(maxsize=4096)
def _layout(
    a: Shape, a_strides: Shape, b: Shape, b_strides: Shape
) -> tuple[Shape, structs.Layout] | None:
    """Shape of the result, and the layout of operands that are broadcast to it; None without
    elements, where shapes do not broadcast, or there are too many axes.
    """
    try:
        shape = np.broadcast_shapes(a, b)
    except ValueError:
        return None
    strides = [
        tuple(
            0 if length == 1 else stride
            for length, stride in zip(
                (1,) * (len(shape) - len(own)) + tuple(own),
                (0,) * (len(shape) - len(own)) + of_own,
                strict=True,
            )
        )
        for own, of_own in ((a, a_strides), (b, b_strides))
    ]
    layout = None if 0 in shape else operands_of(shape, *strides)
    return None if layout is None else (shape, layout)


@forget_on_redefinition
@lru_cache(maxsize=1024)
def _prepared(operation: str, text: str, dtype: torch.dtype) -> Prepared | None:
    quantizer = Quantizer.parse(text)
    if quantizer.rounding.stochastic or dtype not in NAMES:
        return None
    target = target_of(quantizer, SOURCE_DTYPES[NAMES[dtype]])
    plan = plan_of(BINARY64, target)
    if plan is None or target.policy == MARK:
        return None
    return Prepared(cpu.OPERATIONS.index(operation), DTYPES.index(NAMES[dtype]), plan)


@forget_on_redefinition
@lru_cache(maxsize=1024)
def _targets(text: str, dtype: torch.dtype) -> AccumulationTargets | None:
    accumulation = Accumulation.parse(text)
    if accumulation.stochastic or dtype not in NAMES:
        return None
    source = SOURCE_DTYPES[NAMES[dtype]]
    for quantizer in (accumulation.sum, accumulation.of_chunks):
        if quantizer is not None:
            check_representable(quantizer.format, source)
    if accumulation.product is not None:
        check_representable(accumulation.product.format, BINARY64)
    return accumulation.targets


@lru_cache(maxsize=16)
def _ones(count: int, dtype: torch.dtype) -> Tensor:
    return torch.ones(count, dtype=dtype, device=HOST)
