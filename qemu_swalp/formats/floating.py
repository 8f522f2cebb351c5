"""Low-bit floating point (clauses FMT-4 to FMT-6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from .._util.checks import check_bool, check_choice, check_int
from .base import Overflow
from .float_layout import FloatLayout

Specials = Literal["ieee", "fn", "fnuz", "finite"]


@dataclass(frozen=True)
class Float(FloatLayout, family="float"):
    """Sign, `exponent` bits, `mantissa` bits.

    Parameters
    ----------
    exponent : 1..11; `mantissa` : 0..52. The range must fit float64.
    bias : exponent bias; default 2^(exponent-1) - 1.
    signed : whether there is a sign bit.
    subnormals : whether exponent field 0 holds subnormal values; if not, it holds zero alone.
    zero : whether there is a zero; if not, exponent field 0 is an ordinary binade.
    specials : how infinity and NaN are coded: "ieee" (greatest exponent field), "fn" (NaN is the
        code of all ones, no infinity). Or "fnuz" (NaN is the code of -0, no infinity, no -0),
        "finite" (neither).
    overflow : "infinity" (default where there are infinities), "saturate" (default elsewhere),
        "propagate" or "nan".

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
        check_int("mantissa", self.mantissa, 0, 52)
        for name in ("signed", "subnormals", "zero"):
            check_bool(name, getattr(self, name))
        check_choice("specials", self.specials, get_args(Specials))
        for name, value in self.derived_defaults().items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        check_int("bias", self.bias, -1100, 1100)
        if self.specials == "fnuz" and not (self.signed and self.zero):
            raise ValueError(
                "specials='fnuz' codes NaN as -0, so it needs signed=True and zero=True"
            )
        if not self.zero and not self.subnormals:
            raise ValueError(
                "subnormals=False needs zero=True: without a zero there are no subnormals to"
                " leave out"
            )
        self.check_layout()
        super().__post_init__()

    def derived_defaults(self) -> dict[str, object]:
        return {
            "bias": 2 ** (self.exponent - 1) - 1,
            "overflow": "infinity" if self.has_infinity else "saturate",
        }

    @property
    def top_code(self) -> int:
        return self.ones - {"ieee": 1 << self.mantissa, "fn": 1}.get(self.specials, 0)

    @property
    def infinity_code(self) -> int | None:
        return self.top_code + 1 if self.specials == "ieee" else None

    @property
    def nan_code(self) -> int | None:
        if self.specials == "ieee":
            return self.top_code + 1 + (1 << self.mantissa >> 1) if self.mantissa else None
        return {"fn": self.ones, "fnuz": self.ones + 1}.get(self.specials)
