"""Logarithmic and power-of-two formats (clause FMT-14)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Literal

from .._util.checks import check_choice, check_int
from ..arrays.dtypes import SOURCE_DTYPES
from .base import Overflow
from .exponential import power_of_two, round_to_float
from .table import RealTable


@dataclass(frozen=True)
class Logarithmic(RealTable, family="logarithmic"):
    """Sign and log2 |x| in fixed point, `fraction` bits after the point: zero, and ±2^((m -
    bias)/2^fraction).

    Parameters
    ----------
    word : 3..16 bits: the sign and m; m = 0 is zero, with the sign bit NaN.
    fraction : 0..12; with 0 the values are powers of two.
    bias : integer; default 2^(word-2), so that m runs as far above 1 as below it.
    midpoint : "geometric" (default): the nearest modes round log2 |x|; "arithmetic": they round x.
    dtype : "float32" (default) or "float64", to which the irrational values are rounded.
    overflow : "saturate" (default), "propagate" or "nan".

    >>> from qemu_swalp import parse, quantize
    >>> quantize([3.0, 2.8, -0.1, 99.0, 0.01], "pot4").tolist()
    [4.0, 2.0, -0.125, 8.0, 0.0]
    >>> quantize(3.0, "logarithmic<8,3>").item(), parse("logarithmic<8,3>").max
    (3.0844216346740723, 234.75303649902344)
    """

    word: int
    fraction: int
    bias: int = None  # type: ignore[assignment]
    midpoint: Literal["geometric", "arithmetic"] = "geometric"
    dtype: Literal["float32", "float64"] = "float32"
    overflow: Overflow = "saturate"

    def __post_init__(self) -> None:
        check_int("word", self.word, 3, 16)
        check_int("fraction", self.fraction, 0, 12)
        check_choice("midpoint", self.midpoint, ("geometric", "arithmetic"))
        check_choice("dtype", self.dtype, ("float32", "float64"))
        if self.bias is None:
            object.__setattr__(self, "bias", self.derived_defaults()["bias"])
        dtype, scale = SOURCE_DTYPES[self.dtype], 1 << self.fraction
        low, high = (1 - dtype.bias) * scale, dtype.bias * scale
        check_int("bias", self.bias, -(2**24), 2**24)
        if not low <= 1 - self.bias <= self.greatest - self.bias <= high:
            raise ValueError(
                f"{self.canonical_string()} has values from 2^{(1 - self.bias) / scale:g} to"
                f" 2^{(self.greatest - self.bias) / scale:g}, beyond the normal numbers of"
                f" {self.dtype}; choose another bias, a smaller word or more fraction bits"
            )
        self.check_overflow(self.overflow)

    def derived_defaults(self) -> dict[str, object]:
        return {"bias": 1 << (self.word - 2)}

    @property
    def greatest(self) -> int:
        """Greatest m."""
        return (1 << (self.word - 1)) - 1

    def power(self, m: Fraction | int) -> Fraction:
        """2^((m - bias)/2^fraction), as `boundaries` may give it."""
        return power_of_two(Fraction(m - self.bias) / (1 << self.fraction))

    @cached_property
    def table(self) -> tuple[float, ...]:
        dtype = SOURCE_DTYPES[self.dtype]
        positive = [
            round_to_float(self.power(m), dtype.mantissa, dtype.least_exponent)
            for m in range(1, self.greatest + 1)
        ]
        return (0.0, *positive, math.nan, *(-v for v in positive))

    @cached_property
    def boundaries(self) -> tuple[Fraction, ...] | None:
        if self.midpoint == "arithmetic":
            return None
        between = [self.power(m + Fraction(1, 2)) for m in range(self.greatest)]
        return (*(-v for v in reversed(between)), *between)

    @property
    def first_place(self) -> int:
        return -self.greatest
