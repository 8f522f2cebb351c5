"""The floating-point formats of IEEE P3109 (clause FMT-11)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .._util.checks import check_bool, check_choice, check_int
from ..arrays import Array, Namespace
from .base import Overflow
from .float_layout import FloatLayout


@dataclass(frozen=True)
class P3109(FloatLayout, family="p3109"):
    """Binary{k}p{p}, signed or unsigned, finite or extended: every format is also found by name, as
    in `p3109_k8p4se`.

    Parameters
    ----------
    k : 3..16, width in bits. p : precision, the hidden bit included; 1..k-1, unsigned 1..k. The
        exponent has k - p bits (unsigned k - p + 1), at most float64's 11.
    signed : False for the formats without negative values ("u" in the name).
    domain : "extended" (with infinities, "e") or "finite" ("f"). All have one zero and one NaN.
    overflow : "infinity" (default of extended formats), "saturate" (default of finite ones),
        "propagate" or "nan"; `overflow_of` says which is which saturation mode of the draft.

    Source: IEEE P3109 v4.0 draft (2026-06). `subnormals` and `zero` are always true.

    >>> from qemu_swalp import parse, quantize
    >>> f = parse("p3109_k8p4se")
    >>> f == P3109(8, 4), f.max, f.bias, f.min_positive
    (True, 224.0, 8, 0.0009765625)
    >>> policies = map(f.overflow_of, f.saturation_modes)
    >>> [quantize([300.0, float("inf")], f, overflow=policy).tolist() for policy in policies]
    [[224.0, 224.0], [224.0, inf], [inf, inf]]
    """

    k: int
    p: int
    signed: bool = True
    domain: Literal["extended", "finite"] = "extended"
    overflow: Overflow = None  # type: ignore[assignment]

    saturation_modes = ("SatFinite", "SatPropagate", "SatNone")
    zero = True
    subnormals = True

    def __post_init__(self) -> None:
        check_bool("signed", self.signed)
        check_choice("domain", self.domain, ("extended", "finite"))
        check_int("k", self.k, 3, 16)
        check_int("p", self.p, 1, self.k - self.signed)
        exponent = self.k - self.p + 1 - self.signed
        for name, value in (
            ("exponent", exponent),
            ("mantissa", self.p - 1),
            ("bias", 1 << (exponent - 1)),
        ):
            object.__setattr__(self, name, value)
        if exponent > 11:
            raise ValueError(
                f"{self.canonical_string()} has {exponent} exponent bits, and float64, the widest"
                f" source, has 11; give it p of at least {self.p + exponent - 11}"
            )
        if self.overflow is None:
            object.__setattr__(self, "overflow", self.derived_defaults()["overflow"])
        self.check_layout()
        super().__post_init__()

    def derived_defaults(self) -> dict[str, object]:
        return {
            "overflow": self.overflow_of("SatNone" if self.domain == "extended" else "SatFinite")
        }

    def overflow_of(self, saturation: str) -> Overflow:
        """The overflow policy that is a saturation mode of the draft in this format."""
        check_choice("saturation", saturation, self.saturation_modes)
        extended = self.domain == "extended"
        if saturation == "SatNone":
            return "infinity" if extended else "nan"
        return "propagate" if saturation == "SatPropagate" and extended else "saturate"

    @property
    def short_name(self) -> str | None:
        if self.overflow != self.derived_defaults()["overflow"]:
            return None
        return f"p3109_k{self.k}p{self.p}{'s' if self.signed else 'u'}{self.domain[0]}"

    @property
    def top_code(self) -> int:
        return self.ones - (not self.signed) - (self.domain == "extended")

    @property
    def infinity_code(self) -> int | None:
        return self.top_code + 1 if self.domain == "extended" else None

    @property
    def nan_code(self) -> int | None:
        return self.ones + self.signed

    def parity(self, n: Array, binade: Array, xp: Namespace) -> Array:
        """That of the code, which is n's where a binade holds more than one value (clause
        RND-5).
        """
        return n & 1 if self.mantissa else (xp.maximum(binade - self.emin + 1, 0)) & 1
