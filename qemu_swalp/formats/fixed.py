"""Fixed point (clause FMT-3)."""

from __future__ import annotations

from dataclasses import dataclass

from .._util.checks import check_bool, check_int
from ..arrays import Array, Namespace
from .base import Overflow
from .binade import BinadeFormat


@dataclass(frozen=True)
class Fixed(BinadeFormat, family="fixed"):
    """`word` bits, `fraction` of them after the binary point: integers times 2^-fraction.

    Parameters
    ----------
    word : 1..32 (2..32 if signed)
    fraction : -256..256; may exceed `word` or be negative.
    signed : two's complement, range [-2^(word-1), 2^(word-1) - 1]·2^-fraction; else [0, 2^word -
        1]·2^-fraction.
    symmetric : leave out the most negative value, so that min = -max (signed only).
    overflow : "saturate"; fixed point has neither infinity nor NaN.

    >>> Fixed(8, 6).min, Fixed(8, 6).max, Fixed(8, 6).epsilon
    (-2.0, 1.984375, 0.015625)
    """

    word: int
    fraction: int
    signed: bool = True
    symmetric: bool = False
    overflow: Overflow = "saturate"

    def __post_init__(self) -> None:
        check_bool("signed", self.signed)
        check_bool("symmetric", self.symmetric)
        check_int("word", self.word, 1 + self.signed, 32)
        check_int("fraction", self.fraction, -256, 256)
        if self.symmetric and not self.signed:
            raise ValueError(
                "symmetric=True needs signed=True: an unsigned range has no mirror image"
            )
        super().__post_init__()

    @property
    def max(self) -> float:
        return float((2 ** (self.word - self.signed) - 1) * 2.0**-self.fraction)

    @property
    def min(self) -> float:
        if not self.signed:
            return 0.0
        return -self.max if self.symmetric else float(-(2 ** (self.word - 1)) * 2.0**-self.fraction)

    def quantum(self, binade: Array, xp: Namespace) -> Array:
        return -self.fraction

    @property
    def bits(self) -> int:
        return self.word

    def encode_parts(self, negative: Array, n: Array, binade: Array, xp: Namespace) -> Array:
        return xp.where(negative, (1 << self.word) - n, n) if self.signed else n

    def decode_parts(self, code: Array, xp: Namespace) -> tuple[Array, Array, Array]:
        code = code & ((1 << self.word) - 1)
        negative = xp.shift_right(code, self.word - 1) == 1 if self.signed else code < 0
        return negative, xp.where(negative, (1 << self.word) - code, code), code * 0 - self.fraction
