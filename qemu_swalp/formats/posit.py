"""Posits (clause FMT-12)."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from .._util.checks import check_int
from .base import Overflow
from .twos_complement import TwosComplementTable


@dataclass(frozen=True)
class Posit(TwosComplementTable, family="posit"):
    """`word` bits: sign, regime, `es` exponent bits, fraction; as much of the last two as the
    regime leaves room for.

    Parameters
    ----------
    word : 2..16. es : 0..10, 2 in the standard; (word - 2)·2^es at most 1023.
    overflow : "propagate" (default, the standard: finite numbers saturate, infinity becomes NaR),
        "saturate" or "nan".

    Source: Standard for Posit Arithmetic (2022), sections 3 and 4.

    >>> from qemu_swalp import encode, quantize
    >>> p = Posit(8)
    >>> str(p), p.max, p.min_positive, quantize([3.3, 1e9, 1e-9, 0.0], p).tolist()
    ('posit8', 16777216.0, 5.960464477539063e-08, [3.25, 16777216.0, 5.960464477539063e-08, 0.0])
    >>> [hex(code) for code in encode([1.0, -1.0, float("nan")], p).tolist()]
    ['0x40', '0xc0', '0x80']
    """

    word: int
    es: int = field(default=2, metadata={"positional": True})
    overflow: Overflow = "propagate"

    def __post_init__(self) -> None:
        check_int("word", self.word, 2, 16)
        check_int("es", self.es, 0, 10)
        if (self.word - 2) << self.es > 1023:
            raise ValueError(
                f"{self.canonical_string()} has values from 2^-{(self.word - 2) << self.es} on,"
                " beyond float64; choose a smaller word or es"
            )
        super().__post_init__()

    def magnitude(self, code: int, word: int) -> Fraction:
        width = word - 1
        ones = code >> (width - 1) == 1
        run = width - ((code ^ ((1 << width) - 1)) if ones else code).bit_length()
        rest = max(width - run - 1, 0)
        tail, fraction_bits = code & ((1 << rest) - 1), max(rest - self.es, 0)
        exponent = (tail >> fraction_bits) << max(self.es - rest, 0)
        scale = ((run - 1 if ones else -run) << self.es) + exponent
        significand = (1 << fraction_bits) + (tail & ((1 << fraction_bits) - 1))
        return Fraction(significand) * Fraction(2) ** (scale - fraction_bits)
