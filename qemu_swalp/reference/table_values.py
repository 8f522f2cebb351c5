"""The values of a table in a source dtype: bits, and keys by which they are found."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache

import numpy as np

from ..arrays.dtypes import SourceDtype
from ..formats import TableFormat


def keys(numbers: Iterable[Fraction | float], dtype: SourceDtype) -> np.ndarray:
    """The keys of numbers that the dtype represents: magnitude bits with the number's sign, which
    order like the numbers.
    """
    return np.array([_key(v, dtype) for v in numbers], np.int64)


@lru_cache(maxsize=256)
def value_bits(format: TableFormat, dtype: SourceDtype) -> np.ndarray:
    """Bits of the finite values, ascending, as signed integers of the storage width."""
    return np.array(
        [abs(_key(v, dtype)) + (dtype.sign if v < 0 else 0) for v in format.finite], np.int64
    )


def _key(v: Fraction | float, dtype: SourceDtype) -> int:
    bits, _ = magnitude_bits(dtype, *abs(Fraction(v)).as_integer_ratio())
    return bits if v >= 0 else -bits


def magnitude_bits(dtype: SourceDtype, numerator: int, denominator: int) -> tuple[int, bool]:
    """Bits of the dtype's greatest number that is not above v ≥ 0, and whether it is v; as if it
    had no greatest.
    """
    if numerator == 0:
        return 0, True
    e = numerator.bit_length() - denominator.bit_length()
    e -= (numerator < denominator << e) if e >= 0 else (numerator << -e < denominator)
    field = max(e + dtype.bias, 1)
    shift = dtype.bias + dtype.mantissa - field
    units, rest = divmod(numerator << max(shift, 0), denominator << max(-shift, 0))
    return units + ((field - 1) << dtype.mantissa), rest == 0
