"""What the functions of this package compute with: a library and a source dtype, whose numbers are
split into integers without floating-point arithmetic (clause SRC-1); and a target.
"""

from __future__ import annotations

from typing import NamedTuple

from ..arrays import Array, Namespace
from ..arrays.dtypes import SOURCE_DTYPES, SourceDtype
from ..formats import BinadeFormat, Block, Format, Squeezed, TableFormat
from ..rounding import Rounding

BINARY32 = SOURCE_DTYPES["float32"]
BINARY64 = SOURCE_DTYPES["float64"]


class Target(NamedTuple):
    """What numbers are rounded to, and how."""

    format: Format
    policy: str
    """Overflow policy in force (`Block.overflow_in_force`), or `overflow.MARK`."""
    rounding: Rounding

    @property
    def element(self) -> BinadeFormat | TableFormat:
        """The format of the elements."""
        return element_of(self.format)


def element_of(format: Format) -> BinadeFormat | TableFormat:
    """The format of the elements: a block format's, or the format itself."""
    element = format.element if isinstance(format, Block | Squeezed) else format
    if not isinstance(element, BinadeFormat | TableFormat):
        raise TypeError(
            f"{type(format).__name__} must derive from BinadeFormat, TableFormat or Block to be"
            " rounded to"
        )
    return element


class Magnitude(NamedTuple):
    """Numbers sig·2^ulp ≥ 0, as arrays of integers."""

    sig: Array
    ulp: Array


class Context(NamedTuple):
    """An array library, and a source dtype of its arrays.

    Integers are of the dtype's `width`: int32 for up to 24 significant bits, int64 for float64.
    "Magnitude bits" are the bits of a number without its sign.
    """

    xp: Namespace
    dtype: SourceDtype

    def of(self, dtype: SourceDtype) -> Context:
        """The same library with another source dtype."""
        return Context(self.xp, dtype)

    def magnitude_bits(self, x: Array) -> Array:
        """Magnitude bits of an array."""
        return self.xp.cast(self.xp.bits(x), self.dtype.width) & ~self.dtype.sign

    def negative(self, x: Array) -> Array:
        """Mask of the sign bit."""
        return self.xp.bits(x) < 0

    def split(self, bits: Array) -> Magnitude:
        """The numbers with these magnitude bits."""
        xp, dtype = self
        field = xp.shift_right(bits, dtype.mantissa)
        hidden = xp.where(field > 0, 1 << dtype.mantissa, 0 * field)
        sig = (bits & ((1 << dtype.mantissa) - 1)) | hidden
        return Magnitude(sig, xp.maximum(field, 1) + (dtype.least_exponent - 1))

    def normalize(self, n: Array) -> tuple[Array, Array]:
        """(binade, fraction) of integers n > 0: n = (1 + fraction/2^significand)·2^binade. Without
        meaning for n = 0.
        """
        s = self.dtype.significand
        bits = self.xp.float_bits(n)
        bias = 127 if self.dtype.width == 32 else 1023
        return self.xp.shift_right(bits, s) - bias, bits & ((1 << s) - 1)

    def join(self, binade: Array, fraction: Array) -> Array:
        """Magnitude bits of (1 + fraction/2^significand)·2^binade, cut toward zero to the dtype
        (clause SRC-2).
        """
        xp, dtype = self
        dropped = dtype.significand - dtype.mantissa
        field = binade + dtype.bias
        last = dtype.infinity >> dtype.mantissa
        normal = xp.shift_left(xp.clip(field, 0, last), dtype.mantissa)
        normal = normal | xp.shift_right(fraction, dropped)
        # Subnormal: the significand with its hidden bit, shifted down to units of the least
        # subnormal.
        down = xp.clip(dropped + 1 - field, 0, dtype.width - 1)
        subnormal = xp.shift_right(fraction | (1 << dtype.significand), down)
        return xp.where(field > 0, xp.minimum(normal, dtype.infinity - 1), subnormal)

    def signed(self, bits: Array, negative: Array) -> Array:
        """Magnitude bits with the sign bit set where the mask holds."""
        return self.xp.where(negative, bits | self.dtype.sign, bits)

    def floats(self, bits: Array) -> Array:
        """The array with these bits."""
        return self.xp.floats(self.xp.cast(bits, self.dtype.storage), self.dtype.name)
