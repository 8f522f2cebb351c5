"""Codes of tables (clauses FMT-10, COD-1, COD-2)."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from ..arrays import Array
from ..arrays.dtypes import SourceDtype
from ..formats import TableFormat
from .context import Context
from .table import signed_key
from .table_values import keys, value_bits


def table_codes(ctx: Context, x: Array, format: TableFormat) -> Array:
    """Codes of elements that are values of the format."""
    xp, dtype = ctx
    magnitude, key = signed_key(ctx, x)
    values, codes = _values(format, dtype)
    codes = xp.take(codes, xp.maximum(xp.searchsorted(values, key) - 1, 0))
    negative = ctx.negative(x)
    masks = {
        math.inf: (magnitude == dtype.infinity) & ~negative,
        -math.inf: (magnitude == dtype.infinity) & negative,
        math.nan: magnitude > dtype.infinity,
        -0.0: (magnitude == 0) & negative if format.has_negative_zero else None,
    }
    for special, mask in masks.items():
        code = format.code_of(special)
        if code is not None and mask is not None:
            codes = xp.where(mask, code, codes)
    return codes


def table_values(ctx: Context, codes: Array, format: TableFormat) -> Array:
    """Bits of the values that codes stand for."""
    xp, count = ctx.xp, len(format.meanings)
    if xp.concrete(codes) and xp.any((codes < 0) | (codes >= count)):
        raise ValueError(f"codes of {format} run from 0 to {count - 1}")
    return xp.take(_meanings(format, ctx.dtype), codes)


@lru_cache(maxsize=256)
def _values(format: TableFormat, dtype: SourceDtype) -> tuple[np.ndarray, np.ndarray]:
    """Keys of the finite values, ascending, and their codes."""
    return keys(format.finite, dtype), np.array(list(format.finite.values()), np.int64)


@lru_cache(maxsize=256)
def _meanings(format: TableFormat, dtype: SourceDtype) -> np.ndarray:
    """Bits of what each code stands for, as signed integers of the storage width."""
    finite = dict(zip(format.finite, value_bits(format, dtype).tolist(), strict=True))
    infinite = {math.inf: dtype.infinity, -math.inf: dtype.infinity + dtype.sign}

    def bits(value: float) -> int:
        if math.isnan(value):
            return dtype.nan
        if format.has_negative_zero and value == 0 and math.copysign(1.0, value) < 0:
            return dtype.sign
        return infinite[value] if math.isinf(value) else finite[value]

    return np.array([bits(value) for value in format.meanings], np.int64)
