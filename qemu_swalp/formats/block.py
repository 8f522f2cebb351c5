"""Block floating point: elements under a power-of-two scale that a block shares (clauses BLK-1 to BLK-6)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..checks import check_choice, check_int
from .base import FAMILIES, Format, spell
from .binade import BinadeFormat
from .fixed import Fixed


@dataclass(frozen=True)
class Block(Format, family="block"):
    """An element grid under a shared scale 2^S, S = ⌊log2 max|x|⌋ - ⌊log2 element.max⌋ over each block.

    Parameters
    ----------
    element : any `BinadeFormat`.
    axis : None (the whole array is one block), or the axis or axes of which each index has a scale of its own.
        An array all of whose axes are named is one block.
    size : with a single axis: blocks are runs of so many elements along it; the last may be shorter.
    scale_bits : 2..16; S is a signed integer of so many bits.

    >>> from qemu_swalp import quantize
    >>> quantize([[1.0, 0.013], [64.0, 0.7]], bfp(8, axis=0)).tolist()
    [[1.0, 0.015625], [64.0, 1.0]]
    """

    element: BinadeFormat
    axis: tuple[int, ...] | None = None
    size: int | None = None
    scale_bits: int = 8

    def __post_init__(self) -> None:
        if not isinstance(self.element, BinadeFormat):
            raise TypeError("element must be a format with evenly spaced binades, such as Fixed(8, 6) or Float(4, 3), "
                            f"got {self.element!r}")
        if self.axis is not None:
            axes = tuple(self.axis) if isinstance(self.axis, Iterable) else (self.axis,)
            for a in axes:
                check_int("axis", a, -64, 63)
            if not axes or len(set(axes)) < len(axes):
                raise ValueError(f"axis must name each axis once, got {self.axis!r}; leave it out for a single block")
            object.__setattr__(self, "axis", axes)
        if self.size is not None:
            check_int("size", self.size, 1, 2**31 - 1)
            if self.axis is None or len(self.axis) != 1:
                raise ValueError(f"size={self.size} needs one axis to run along, as in axis=-1; got axis={self.axis!r}")
        check_int("scale_bits", self.scale_bits, 2, 16)

    @property
    def bits(self) -> int:
        return self.element.bits

    @property
    def idempotent(self) -> bool:
        return self.element.min == -self.element.max and self.element.overflow == "saturate"

    def axes_of(self, ndim: int) -> tuple[int, ...]:
        """The named axes in an array of `ndim` dimensions, ascending; () where the array is one block."""
        axes = set()
        for a in self.axis or ():
            if not -ndim <= a < ndim:
                raise ValueError(f"{self} names axis {a}, which an array of {ndim} dimensions does not have")
            if a % ndim in axes:
                raise ValueError(f"{self} names axis {a % ndim} of an array of {ndim} dimensions twice")
            axes.add(a % ndim)
        return () if self.size is None and len(axes) == ndim else tuple(sorted(axes))

    def spelling(self) -> str:
        word = self.element.bits
        for range_, element in (("symmetric", _integers(word, True)), ("twos", _integers(word, False))):
            if self.element == element:
                return spell("bfp", _Bfp(word, range_, self.axis, self.size, self.scale_bits), {})
        return super().spelling()


def _integers(word: int, symmetric: bool) -> Fixed | None:
    return Fixed(word, word - 2, symmetric=symmetric) if 2 <= word <= 32 else None


@dataclass(frozen=True)
class _Bfp:
    """The parameters of `bfp`, for its string."""

    word: int
    range: str = "symmetric"
    axis: tuple[int, ...] | None = None
    size: int | None = None
    scale_bits: int = 8


def bfp(word: int, range: Literal["symmetric", "twos"] = "symmetric", axis: int | Iterable[int] | None = None,
        size: int | None = None, scale_bits: int = 8) -> Block:
    """SWALP's block floating point: `word`-bit integers under a shared exponent.

    `range="symmetric"` (default) is idempotent; "twos" is the range [-2^(W-1), 2^(W-1) - 1] of Yang et al. 2019,
    section 3.2. `axis=None` is their big-block design, `axis=0` their small-block design. The other parameters are
    those of `Block`.
    """
    check_int("word", word, 2, 32)
    check_choice("range", range, ("symmetric", "twos"))
    return Block(Fixed(word, word - 2, symmetric=range == "symmetric"), axis, size, scale_bits)  # type: ignore[arg-type]


FAMILIES["bfp"] = bfp
