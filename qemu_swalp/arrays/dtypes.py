"""Source dtypes: the floating dtypes that arrays have before and after rounding (clause SRC-1)."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class SourceDtype:
    """Layout of a source dtype, and the integers in which its values are computed.

    Parameters
    ----------
    storage : bits of the dtype.
    width : 32 or 64, bits of the integers.
    mantissa : bits of the significand without the hidden one.
    bias : exponent bias.
    """

    name: str
    storage: int
    width: int
    mantissa: int
    bias: int

    @property
    def sign(self) -> int:
        """The sign bit and, in wider integers, all bits above it."""
        return -(1 << (self.storage - 1))

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
        """Significant bits."""
        return self.mantissa + 1

    @property
    def least_exponent(self) -> int:
        """Exponent of the least subnormal."""
        return 1 - self.bias - self.mantissa

    @property
    def max(self) -> float:
        """The greatest finite number."""
        return float((2 - 2.0**-self.mantissa) * 2.0**self.bias)

    @property
    def significand(self) -> int:
        """Mantissa bits of the float32 or float64 in which integers of `width` are normalized."""
        return 23 if self.width == 32 else 52

    def wide(self) -> SourceDtype:
        """The same dtype computed in int64."""
        return replace(self, width=64)


SOURCE_DTYPES = {
    dtype.name: dtype
    for dtype in (
        SourceDtype("float16", 16, 32, 10, 15),
        SourceDtype("bfloat16", 16, 32, 7, 127),
        SourceDtype("float32", 32, 32, 23, 127),
        SourceDtype("float64", 64, 64, 52, 1023),
    )
}


def source_dtype(name: str) -> SourceDtype:
    """The source dtype of that name. TypeError for any other dtype."""
    if name not in SOURCE_DTYPES:
        remedy = (
            "round its real and imaginary parts one by one"
            if name.startswith("complex")
            else "convert it first"
        )
        raise TypeError(
            f"expected an array of {', '.join(SOURCE_DTYPES)}, got dtype {name}; {remedy}"
        )
    return SOURCE_DTYPES[name]
