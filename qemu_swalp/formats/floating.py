"""Low-bit floating point (clauses FMT-4 to FMT-6)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from ..backends import Array, Namespace
from ..checks import check_bool, check_choice, check_int
from .base import Overflow
from .binade import BinadeFormat

Specials = Literal["ieee", "fn", "fnuz", "finite"]


@dataclass(frozen=True)
class Float(BinadeFormat, family="float"):
    """Sign, `exponent` bits, `mantissa` bits.

    Parameters
    ----------
    exponent : 1..11; `mantissa` : 0..23. The range must fit float64.
    bias : exponent bias; default 2^(exponent-1) - 1.
    signed : whether there is a sign bit.
    subnormals : whether exponent field 0 holds subnormal values; if not, it holds zero alone.
    zero : whether there is a zero; if not, exponent field 0 is an ordinary binade.
    specials : how infinity and NaN are coded: "ieee" (greatest exponent field), "fn" (NaN is the code of all ones, no
        infinity), "fnuz" (NaN is the code of -0, no infinity, no -0), "finite" (neither).
    overflow : "infinity" (default where there are infinities), "saturate" (default elsewhere) or "nan".

    >>> e4m3fn = Float(4, 3, specials="fn")
    >>> e4m3fn.max, e4m3fn.min_normal, e4m3fn.min_subnormal, e4m3fn.epsilon, e4m3fn.value_count
    (448.0, 0.015625, 0.001953125, 0.125, 253)
    """

    exponent: int
    mantissa: int
    bias: int = None  # type: ignore[assignment]
    signed: bool = True
    subnormals: bool = True
    zero: bool = True
    specials: Specials = "ieee"
    overflow: Overflow = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        check_int("exponent", self.exponent, 1, 11)
        check_int("mantissa", self.mantissa, 0, 23)
        for name in ("signed", "subnormals", "zero"):
            check_bool(name, getattr(self, name))
        check_choice("specials", self.specials, get_args(Specials))
        for name, value in self.derived_defaults().items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        check_int("bias", self.bias, -1100, 1100)
        if self.specials == "fnuz" and not (self.signed and self.zero):
            raise ValueError("specials='fnuz' codes NaN as -0, so it needs signed=True and zero=True")
        if not self.zero and not self.subnormals:
            raise ValueError("subnormals=False needs zero=True: without a zero there are no subnormals to leave out")
        least_code = 0 if not self.zero else 1 if self.subnormals else 1 << self.mantissa
        if self._max_code < least_code:
            raise ValueError(f"float<{self.exponent},{self.mantissa}> with specials={self.specials!r} has no positive "
                             "value left; give it more exponent or mantissa bits")
        top = (self._max_code >> self.mantissa) - self.bias
        if not -1074 <= self.emin - self.mantissa <= top <= 1023:
            raise ValueError(f"bias {self.bias} puts the values from 2^{self.emin - self.mantissa} to 2^{top}, beyond "
                             "float64's 2^-1074 to 2^1023; choose another bias")
        super().__post_init__()

    def derived_defaults(self) -> dict[str, object]:
        return {"bias": 2 ** (self.exponent - 1) - 1, "overflow": "infinity" if self.has_infinity else "saturate"}

    @property
    def emin(self) -> int:
        """Least binade of the normal values."""
        return (1 if self.zero else 0) - self.bias

    @property
    def has_zero(self) -> bool:
        return self.zero

    @property
    def has_infinity(self) -> bool:
        return self.specials == "ieee"

    @property
    def has_nan(self) -> bool:
        return self.specials in ("fn", "fnuz") or (self.specials == "ieee" and self.mantissa > 0)

    @property
    def has_negative_zero(self) -> bool:
        return self.signed and self.zero and self.specials != "fnuz"

    @property
    def _max_code(self) -> int:
        """Greatest code without a sign that stands for a finite value."""
        ones = (1 << (self.exponent + self.mantissa)) - 1
        return {"ieee": ones - (1 << self.mantissa), "fn": ones - 1}.get(self.specials, ones)

    @cached_property
    def max(self) -> float:
        n, q = self._number(self._max_code)
        return float(n * 2.0**q)

    @property
    def min_normal(self) -> float:
        """Least positive normal value."""
        return float(2.0**self.emin)

    @property
    def min_subnormal(self) -> float | None:
        """Least positive subnormal value; None without subnormals."""
        return float(2.0 ** (self.emin - self.mantissa)) if self.subnormals and self.zero and self.mantissa else None

    @cached_property
    def min_positive(self) -> float:
        return self.min_subnormal or self.min_normal

    def _number(self, code: int) -> tuple[int, int]:
        field, fraction = code >> self.mantissa, code & ((1 << self.mantissa) - 1)
        hidden = int(field > 0 or not self.zero) << self.mantissa
        return fraction | hidden, max(field - self.zero, 0) + self.emin - self.mantissa

    def quantum(self, binade: Array, xp: Namespace) -> Array:
        if not self.zero:
            return binade - self.mantissa
        if not self.subnormals:
            return xp.where(binade < self.emin, self.emin, binade - self.mantissa)
        return xp.maximum(binade, self.emin) - self.mantissa

    @property
    def bits(self) -> int:
        return self.exponent + self.mantissa + self.signed

    @property
    def infinity_code(self) -> int | None:
        return self._max_code + 1 if self.has_infinity else None

    @property
    def nan_code(self) -> int | None:
        ones = (1 << (self.exponent + self.mantissa)) - 1
        quiet = self._max_code + 1 + (1 << self.mantissa >> 1)
        return {"ieee": quiet, "fn": ones, "fnuz": ones + 1}[self.specials] if self.has_nan else None

    def encode_parts(self, negative: Array, n: Array, binade: Array, xp: Namespace) -> Array:
        # n holds the hidden bit 2^mantissa, which adds 1 to the exponent field of every normal value.
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
        negative = (xp.shift_right(code, self.bits - 1) & 1) == int(self.signed) if self.signed else code < 0
        return negative, n, q

    def special_codes(self, code: Array, xp: Namespace) -> tuple[Array | None, Array | None]:
        magnitude = code & ((1 << (self.exponent + self.mantissa)) - 1)
        if self.specials == "ieee":
            return magnitude == self.infinity_code, (magnitude > self._max_code + 1) if self.has_nan else None
        if self.specials == "fn":
            return None, magnitude == self.nan_code
        if self.specials == "fnuz":
            return None, (code & ((1 << self.bits) - 1)) == self.nan_code
        return None, None
