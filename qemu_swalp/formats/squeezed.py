"""Numbers that are rounded after a shift and a squeeze of their logarithms: S2FP8."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .base import Format, Overflow
from .binade import BinadeFormat
from .parser import parse


@dataclass(frozen=True)
class Squeezed(Format, family="squeezed"):
    """An element format on the far side of |y| = 2^β·|x|^α, two numbers for the whole array.

    They follow from log2|x| of the elements that are neither zero, infinite nor NaN: α and β bring
    its mean to 0 and its greatest value to log2 `top`. What y is rounded to goes back by the
    inverse. `squeezed<e5m2>`, or "s2fp8", is S2FP8 (Cambier et al. 2020, arXiv 2001.05674,
    equations 1 to 5).

    Logarithms, their mean, and powers are the array library's own, in float32 (of float64 arrays in
    float64). Libraries agree to some 10^-5 of a number (10^-14), and one that is as near to a tie
    may be rounded to either side. Where all magnitudes are equal, which the paper leaves open, they
    stay. There are no integer codes.

    Parameters
    ----------
    element : a float format, or its string.
    top : what the greatest magnitude becomes: a number above 1 and up to the greatest of the
        elements; 2^15 in the paper.

    Raises
    ------
    TypeError, ValueError: if an argument is none of these.

    >>> from qemu_swalp import quantize
    >>> x = np.float64([1e-6, 1.1e-5, -1e-4, 1e-3, 0.0])
    >>> [f"{v:.3g}" for v in quantize(x, "s2fp8")]
    ['1.05e-06', '1.11e-05', '-0.000102', '0.001', '0']
    """

    element: BinadeFormat
    top: float = 32768.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "element", parse(self.element))
        element, top = self.element, self.top
        if not isinstance(element, BinadeFormat) or not (element.signed and element.has_zero):
            raise TypeError(
                "element must be a format of binades with a sign and a zero, such as e5m2 or"
                f" e4m3fn, got {element}"
            )
        if isinstance(top, bool) or not isinstance(top, int | float):
            raise TypeError(f"top must be a number, got {top!r}")
        if not 1 < top <= element.max or float(np.float32(top)) != top:
            raise ValueError(
                f"top must be a number of float32 above 1 and up to {element.max:g}, the greatest"
                f" of {element}, got {top!r}"
            )
        object.__setattr__(self, "top", float(top))

    @property
    def log_top(self) -> float:
        """The natural logarithm of `top`."""
        return math.log(self.top)

    @property
    def bits(self) -> int:
        return self.element.bits

    @property
    def idempotent(self) -> bool:
        return False

    def overflow_in_force(self, overflow: Overflow | None) -> str:
        """The policy of a call that names `overflow`, or None, by which infinities stay."""
        if overflow is None:
            return "propagate" if self.element.overflow == "saturate" else self.element.overflow
        self.element.check_overflow(overflow)
        return overflow
