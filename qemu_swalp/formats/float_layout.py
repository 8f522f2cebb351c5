"""Sign, exponent and mantissa bits: what all floating-point formats share (clause FMT-4)."""

from __future__ import annotations

from functools import cached_property

from ..arrays import Array, Namespace
from .binade import BinadeFormat


class FloatLayout(BinadeFormat):
    """A sign bit (unless unsigned), `exponent` bits, `mantissa` bits, and special codes.

    A family sets the attributes below, as fields or at construction, and says by `top_code`,
    `infinity_code` and `nan_code` which codes are special.
    """

    exponent: int
    mantissa: int
    bias: int
    zero: bool
    """Whether there is a zero; if not, exponent field 0 is an ordinary binade."""
    subnormals: bool
    """Whether exponent field 0 holds subnormal values, not zero alone."""

    @property
    def top_code(self) -> int:
        """Greatest code without a sign that stands for a finite value."""
        return self.ones

    @property
    def ones(self) -> int:
        """The code with all bits of exponent and mantissa set."""
        return (1 << (self.exponent + self.mantissa)) - 1

    def check_layout(self) -> None:
        """Raise ValueError where no positive value is left, or where float64 cannot hold the
        range.
        """
        least_code = 0 if not self.zero else 1 if self.subnormals else 1 << self.mantissa
        if self.top_code < least_code:
            raise ValueError(
                f"{self.canonical_string()} has no positive value left; give it more exponent or"
                " mantissa bits"
            )
        top = (self.top_code >> self.mantissa) - self.bias
        if not -1074 <= self.emin - self.mantissa <= top <= 1023:
            raise ValueError(
                f"{self.canonical_string()} has values from 2^{self.emin - self.mantissa} to"
                f" 2^{top}, beyond float64's 2^-1074 to 2^1023; choose another bias or fewer"
                " exponent bits"
            )

    @property
    def emin(self) -> int:
        """Least binade of the normal values."""
        return (1 if self.zero else 0) - self.bias

    @property
    def has_zero(self) -> bool:
        return self.zero

    @property
    def has_infinity(self) -> bool:
        return self.infinity_code is not None

    @property
    def has_nan(self) -> bool:
        return self.nan_code is not None

    @property
    def has_negative_zero(self) -> bool:
        return self.signed and self.zero and self.nan_code != self.ones + 1

    def is_odd_end(self, above: bool) -> bool:
        return (above or self.signed) and self.top_code % 2 == 1

    @cached_property
    def max(self) -> float:
        field, fraction = self.top_code >> self.mantissa, self.top_code & ((1 << self.mantissa) - 1)
        n = fraction | (int(field > 0 or not self.zero) << self.mantissa)
        return float(n * 2.0 ** (max(field - self.zero, 0) + self.emin - self.mantissa))

    @property
    def min_normal(self) -> float:
        """Least positive normal value."""
        return float(2.0**self.emin)

    @property
    def min_subnormal(self) -> float | None:
        """Least positive subnormal value; None without subnormals."""
        return (
            float(2.0 ** (self.emin - self.mantissa))
            if self.subnormals and self.zero and self.mantissa
            else None
        )

    @cached_property
    def min_positive(self) -> float:
        return self.min_subnormal or self.min_normal

    def quantum(self, binade: Array, xp: Namespace) -> Array:
        if not self.zero:
            return binade - self.mantissa
        if not self.subnormals:
            return xp.where(binade < self.emin, self.emin, binade - self.mantissa)
        return xp.maximum(binade, self.emin) - self.mantissa

    @property
    def bits(self) -> int:
        return self.exponent + self.mantissa + self.signed

    def encode_parts(self, negative: Array, n: Array, binade: Array, xp: Namespace) -> Array:
        # n holds the hidden bit 2^mantissa, which adds 1 to the exponent field of every normal
        # value.
        code = n + xp.shift_left(xp.maximum(binade - self.emin, 0), self.mantissa)
        if not self.zero:
            code = code - (1 << self.mantissa)
        elif not self.subnormals:
            code = xp.where(n == 0, 0, code)
        return xp.where(negative, code + (1 << (self.bits - 1)), code) if self.signed else code

    def decode_parts(self, code: Array, xp: Namespace) -> tuple[Array, Array, Array]:
        field = xp.shift_right(code, self.mantissa) & ((1 << self.exponent) - 1)
        fraction = code & ((1 << self.mantissa) - 1)
        q = xp.maximum(field - int(self.zero), 0) + (self.emin - self.mantissa)
        n = fraction + (1 << self.mantissa)
        if self.zero:
            n = xp.where(field == 0, fraction if self.subnormals else fraction * 0, n)
        negative = (
            (xp.shift_right(code, self.bits - 1) & 1) == int(self.signed)
            if self.signed
            else code < 0
        )
        return negative, n, q

    def special_codes(self, code: Array, xp: Namespace) -> tuple[Array | None, Array | None]:
        magnitude = code & self.ones
        infinite = None if self.infinity_code is None else magnitude == self.infinity_code
        if self.nan_code is None:
            return infinite, None
        if self.nan_code > self.ones:
            return infinite, (code & ((1 << self.bits) - 1)) == self.nan_code
        return infinite, magnitude > max(self.top_code, self.infinity_code or 0)
