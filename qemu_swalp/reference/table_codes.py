"""Codes of tables (clauses FMT-10, COD-1, COD-2)."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from ..arrays import Array, Namespace
from ..arrays.dtypes import SourceDtype
from ..formats import TableFormat
from .table import keys, signed_key, value_bits


def table_codes(xp: Namespace, x: Array, carrier: SourceDtype, format: TableFormat) -> Array:
    """Codes of elements that are values of the format."""
    magnitude, key = signed_key(xp, x, carrier)
    values, codes = _values(format, carrier)
    codes = xp.take(codes, xp.maximum(xp.searchsorted(values, key) - 1, 0))
    negative = carrier.negative(xp, x)
    masks = {
        math.inf: (magnitude == carrier.infinity) & ~negative,
        -math.inf: (magnitude == carrier.infinity) & negative,
        math.nan: magnitude > carrier.infinity,
        -0.0: (magnitude == 0) & negative if format.has_negative_zero else None,
    }
    for special, mask in masks.items():
        code = format.code_of(special)
        if code is not None and mask is not None:
            codes = xp.where(mask, code, codes)
    return codes


def table_values(xp: Namespace, codes: Array, carrier: SourceDtype, format: TableFormat) -> Array:
    """Bits of the values that codes stand for."""
    count = len(format.meanings)
    if xp.concrete(codes) and xp.any((codes < 0) | (codes >= count)):
        raise ValueError(f"codes of {format} run from 0 to {count - 1}")
    return xp.take(_meanings(format, carrier), codes)


@lru_cache(maxsize=256)
def _values(format: TableFormat, carrier: SourceDtype) -> tuple[np.ndarray, np.ndarray]:
    """Keys of the finite values, ascending, and their codes."""
    return keys(format.finite, carrier), np.array(list(format.finite.values()), np.int64)


@lru_cache(maxsize=256)
def _meanings(format: TableFormat, carrier: SourceDtype) -> np.ndarray:
    """Bits of what each code stands for, as signed integers of the storage width."""
    finite = dict(zip(format.finite, value_bits(format, carrier).tolist(), strict=True))
    negative = -(1 << (carrier.storage - 1))
    infinite = {math.inf: carrier.infinity, -math.inf: carrier.infinity + negative}

    def bits(value: float) -> int:
        if math.isnan(value):
            return carrier.nan
        if format.has_negative_zero and value == 0 and math.copysign(1.0, value) < 0:
            return negative
        return infinite[value] if math.isinf(value) else finite[value]

    return np.array([bits(value) for value in format.meanings], np.int64)
