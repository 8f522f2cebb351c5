"""The scales that blocks share: their formats, and the rules that choose them (clauses BLK-3, BLK-7
to BLK-11).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._util.checks import check_int
from .base import Format
from .binade import BinadeFormat, binade
from .floating import Float

POWER_RULES = ("floor", "ceil", "rceil", "even")
"""Rules of scales that are powers of two."""

VENDOR_RULES = ("transformer_engine", "torchao")
"""Rules that are defined by the float32 operations of a vendor's library."""

SEARCH_RULES = ("mse", "four_over_six")
"""Rules that choose between scales by the error of the block."""

GGML = "ggml"
"""The rule of ggml's q8_0: elements are divided by the scale before it is rounded."""

GGML_SIGNED, GGML_MINIMUM = "ggml_signed", "ggml_minimum"
"""The rules of ggml's q4_0 and q5_0, and of its q4_1 and q5_1."""

GGML_RULES = (GGML, GGML_SIGNED, GGML_MINIMUM)

RULES = (*POWER_RULES, "nearest", "minmax", *GGML_RULES, *SEARCH_RULES, *VENDOR_RULES)


def candidates_of(rule: str, top: float, powers: bool) -> tuple[tuple[float, ...], float | None]:
    """What a rule of `SEARCH_RULES` brings amax to, in turn, and the greatest scale of a block
    under a global scale, None: that of the format (clause BLK-17).

    >>> candidates_of("four_over_six", 6.0, False), candidates_of("mse", 6.0, True)
    (((6.0, 4.0), 256.0), ((3.0, 6.0, 12.0), None))
    """
    if rule == "four_over_six":
        return (top, top * 2 / 3), 256.0
    if powers:
        return (top / 2, top, top * 2), None
    return tuple(float(np.float32(top * (8 + j) / 8)) for j in range(9)), None


@dataclass(frozen=True)
class Exponent(Format, family="exponent"):
    """Powers of two 2^S, S a signed integer of `exponent_bits` bits (2..16): the scales of block
    floating point.

    >>> Exponent(8).least_power, Exponent(8).greatest_power
    (-128, 127)
    """

    exponent_bits: int

    def __post_init__(self) -> None:
        check_int("exponent_bits", self.exponent_bits, 2, 16)

    @property
    def bits(self) -> int:
        return self.exponent_bits

    @property
    def idempotent(self) -> bool:
        return True

    @property
    def has_nan(self) -> bool:
        return False

    @property
    def has_infinity(self) -> bool:
        return False

    @property
    def least_power(self) -> int:
        """Least S."""
        return -(1 << (self.exponent_bits - 1))

    @property
    def greatest_power(self) -> int:
        """Greatest S."""
        return (1 << (self.exponent_bits - 1)) - 1


ScaleFormat = Exponent | BinadeFormat


def exponent_range(scale: ScaleFormat) -> tuple[int, int] | None:
    """(least, greatest) S of scales that are powers of two 2^S, without a zero; else None.

    They are those of `Exponent`, and of a `Float` such as e8m0fnu.
    """
    if isinstance(scale, Exponent):
        return scale.least_power, scale.greatest_power
    if isinstance(scale, Float) and scale.mantissa == 0 and not scale.signed and not scale.zero:
        return binade(scale.min_positive), binade(scale.max)
    return None


def check_scale(name: str, format: object, kinds: tuple[type, ...]) -> None:
    """Raise TypeError or ValueError unless the format can be that of a scale."""
    if not isinstance(format, kinds):
        raise TypeError(
            f"{name} must be a format such as Float(8, 23), or parse('e8m0fnu'), got {format!r}"
        )
    if isinstance(format, BinadeFormat) and (
        format.precision > 24 or format.bits > 31 + isinstance(format, Float)
    ):
        raise ValueError(
            f"{name} may have up to 24 significant bits and a code of 32, got {format}, which has "
            f"{format.precision} and {format.bits}"
        )
