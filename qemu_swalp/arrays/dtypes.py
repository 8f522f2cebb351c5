"""Source dtypes taken apart into integers and put together again, without floating-point arithmetic
(clause SRC-1).

A magnitude is (sig, ulp): the number sig·2^ulp. Arithmetic runs in int32 for up to 24 significant
bits, in int64 for float64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from . import Array, Namespace


@dataclass(frozen=True)
class SourceDtype:
    """Layout of a source dtype and the integers that its values are computed in.

    storage : bits of the dtype. width : 32 or 64, of the integers. mantissa : bits without the
        hidden one.
    bias : exponent bias.
    """

    name: str
    storage: int
    width: int
    mantissa: int
    bias: int

    @property
    def infinity(self) -> int:
        """Bits of +infinity."""
        return (1 << (self.storage - 1)) - (1 << self.mantissa)

    @property
    def nan(self) -> int:
        """Bits of the quiet NaN without payload."""
        return self.infinity + (1 << (self.mantissa - 1))

    @property
    def precision(self) -> int:
        return self.mantissa + 1

    @property
    def least_exponent(self) -> int:
        """Exponent of the least subnormal."""
        return 1 - self.bias - self.mantissa

    @property
    def max(self) -> float:
        return float((2 - 2.0**-self.mantissa) * 2.0**self.bias)

    @property
    def significand(self) -> int:
        """Mantissa bits of the float32 or float64 in which integers of `width` are normalized."""
        return 23 if self.width == 32 else 52

    def wide(self) -> SourceDtype:
        """The same dtype computed in int64."""
        return replace(self, width=64)

    def split(self, xp: Namespace, x: Array) -> tuple[Array, Array, Array]:
        """(magnitude bits, sig, ulp) of an array, integers of `width`."""
        magnitude = xp.cast(xp.bits(x), self.width) & ((1 << (self.storage - 1)) - 1)
        return magnitude, *self.split_magnitude(xp, magnitude)

    def split_magnitude(self, xp: Namespace, magnitude: Array) -> tuple[Array, Array]:
        """(sig, ulp) of magnitude bits."""
        field = xp.shift_right(magnitude, self.mantissa)
        hidden = xp.where(field > 0, 1 << self.mantissa, 0 * field)
        sig = (magnitude & ((1 << self.mantissa) - 1)) | hidden
        return sig, xp.maximum(field, 1) + (self.least_exponent - 1)

    def negative(self, xp: Namespace, x: Array) -> Array:
        """Mask of the sign bit."""
        return xp.bits(x) < 0

    def normalize(self, xp: Namespace, n: Array) -> tuple[Array, Array]:
        """(binade, fraction) of integers n > 0: n = (1 + fraction/2^significand)·2^binade. For n =
        0 no meaning.
        """
        bits = xp.float_bits(n)
        bias = 127 if self.width == 32 else 1023
        return xp.shift_right(bits, self.significand) - bias, bits & ((1 << self.significand) - 1)

    def join(self, xp: Namespace, binade: Array, fraction: Array) -> Array:
        """Magnitude bits of (1 + fraction/2^significand)·2^binade, cut toward zero to the dtype
        (clause SRC-2).
        """
        field = binade + self.bias
        kept = xp.shift_right(fraction, self.significand - self.mantissa)
        normal = xp.shift_left(xp.maximum(field, 0), self.mantissa) | kept
        # Subnormal: the significand with its hidden bit, shifted down to units of the least
        # subnormal.
        down = xp.clip(self.significand - self.mantissa + 1 - field, 0, self.width - 1)
        subnormal = xp.shift_right(fraction | (1 << self.significand), down)
        return xp.where(field > 0, xp.minimum(normal, self.infinity - 1), subnormal)


SOURCE_DTYPES = {
    carrier.name: carrier
    for carrier in (
        SourceDtype("float16", 16, 32, 10, 15),
        SourceDtype("bfloat16", 16, 32, 7, 127),
        SourceDtype("float32", 32, 32, 23, 127),
        SourceDtype("float64", 64, 64, 52, 1023),
    )
}


def source_dtype(dtype: str) -> SourceDtype:
    """The carrier of a dtype name. TypeError for any other dtype."""
    if dtype not in SOURCE_DTYPES:
        raise TypeError(
            f"expected an array of {', '.join(SOURCE_DTYPES)}, got dtype {dtype}; convert it first"
        )
    return SOURCE_DTYPES[dtype]
