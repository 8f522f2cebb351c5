"""Takums (clause FMT-13)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from .._util.checks import check_bool, check_int
from .base import Overflow
from .exponential import power_of_root_e
from .twos_complement import TwosComplementTable


@dataclass(frozen=True)
class Takum(TwosComplementTable, family="takum"):
    """`word` bits: sign, direction, three regime bits, up to seven bits of the characteristic,
    mantissa.

    Parameters
    ----------
    word : 2..16; fewer than 12 bits are the first ones of twelve, the others 0.
    linear : a power of two times 1 + mantissa; else a power of √e, held as the nearest float64.
    overflow : "propagate" (default: finite numbers saturate, infinity becomes NaR), "saturate" or
        "nan".

    The powers of √e need float64 arrays, and so does the range of the linear kind, up to 2^±254,
    from 6 bits on.

    Source: L. Hunhold, Beating Posits at Their Own Game: Takum Arithmetic (2024), arXiv 2404.18603.

    >>> import numpy as np
    >>> from qemu_swalp import quantize
    >>> quantize(np.float64([3.3, 1e99, 1e-99]), "takum_linear8").tolist()
    [3.5, 8.834235323891922e+71, 1.131959884853339e-72]
    >>> quantize(np.float64([1.0, 3.3]), "takum16").tolist()
    [1.0, 3.299753128900569]
    """

    word: int
    linear: bool = False
    overflow: Overflow = "propagate"

    def __post_init__(self) -> None:
        check_int("word", self.word, 2, 16)
        check_bool("linear", self.linear)
        super().__post_init__()

    @property
    def short_name(self) -> str | None:
        return (
            f"takum{'_linear' * self.linear}{self.word}" if self.overflow == "propagate" else None
        )

    def magnitude(self, code: int, word: int) -> Fraction:
        code, word = code << max(12 - word, 0), max(word, 12)
        direction, regime = code >> (word - 2) & 1, code >> (word - 5) & 7
        count = regime if direction else 7 - regime
        mantissa_bits = word - 5 - count
        characteristic = (code >> mantissa_bits) & ((1 << count) - 1)
        characteristic += (1 << count) - 1 if direction else 1 - (2 << count)
        fraction = Fraction(code & ((1 << mantissa_bits) - 1), 1 << mantissa_bits)
        if not self.linear:
            return power_of_root_e(characteristic + fraction)
        return (1 + fraction) * Fraction(2) ** characteristic
