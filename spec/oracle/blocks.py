"""Block floating point (clauses BLK)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import NamedTuple

from .exact import binade, carrier, power
from .families import Fixed
from .rounding import quantize


class Geometry:
    """BLK-2; without `axis` the geometry is `tensor`."""

    axis: int | tuple[int, ...] | None
    size: int | tuple[int, ...] | None

    def axes(self, rank: int) -> dict[int, int | None]:
        """The named axes of an array, counted from its start, and the size along each."""
        named = (
            () if self.axis is None else (self.axis,) if isinstance(self.axis, int) else self.axis
        )
        sizes = self.size if isinstance(self.size, tuple) else (self.size,) * len(named)
        return {axis % rank: size for axis, size in zip(named, sizes, strict=True)}

    def block(self, index: tuple[int, ...]) -> tuple[int, ...]:
        """BLK-2, COD-4: where the scale of the element at `index` stands."""
        rank, axes = len(index), self.axes(len(index))
        if self.size is not None:
            return tuple(i // (axes.get(axis) or 1) for axis, i in enumerate(index))
        if len(axes) == rank:
            return (0,) * rank
        return tuple(i if axis in axes else 0 for axis, i in enumerate(index))


def members(
    array: Sequence[float], homes: Sequence[tuple[int, ...]]
) -> dict[tuple[int, ...], list[float]]:
    """The elements of each block."""
    found: dict[tuple[int, ...], list[float]] = {}
    for home, x in zip(homes, array, strict=True):
        found.setdefault(home, []).append(x)
    return found


def greatest(elements: Sequence[float]) -> Fraction:
    """BLK-3: amax."""
    return max((abs(Fraction(x)) for x in elements if math.isfinite(x)), default=Fraction(0))


@dataclass(frozen=True)
class Bfp(Geometry):
    """BLK-1, BLK-5: `bfp<W>`."""

    word: int
    axis: int | tuple[int, ...] | None = None
    size: int | tuple[int, ...] | None = None
    range: str = "symmetric"
    scale_bits: int = 8

    @property
    def element(self) -> Fixed:
        """BLK-5."""
        return Fixed(self.word, self.word - 2, symmetric=self.range == "symmetric")

    def scale(self, elements: Sequence[float]) -> int:
        """BLK-3: S."""
        least, most = -(2 ** (self.scale_bits - 1)), 2 ** (self.scale_bits - 1) - 1
        amax = greatest(elements)
        if amax == 0:
            return least
        return min(max(binade(amax) - binade(self.element.high), least), most)


class Blocks(NamedTuple):
    """BLK-4, COD-4: an array quantized; a code is None where RND-9 leaves a NaN that has none."""

    values: list[float]
    codes: list[int | None]
    exponents: list[int]
    exponent_shape: tuple[int, ...]


def quantize_blocks(
    array: Sequence[float],
    shape: tuple[int, ...],
    fmt: Bfp,
    mode: str = "nearest_even",
    words: Sequence[int] | None = None,
) -> Blocks:
    """BLK-4, for an array in C order."""
    homes = [fmt.block(index) for index in product(*map(range, shape))]
    scales = {home: fmt.scale(elements) for home, elements in members(array, homes).items()}
    rounded = [
        quantize(
            Fraction(x) / power(scales[home]) if math.isfinite(x) else x, fmt.element, mode, word
        )
        for home, x, word in zip(homes, array, words or [0] * len(array), strict=True)
    ]
    values = [
        r if math.isnan(r) else carrier(Fraction(r) * power(scales[home]))
        for home, r in zip(homes, rounded, strict=True)
    ]
    return Blocks(
        values,
        [None if math.isnan(r) else fmt.element.encode(r) for r in rounded],
        [scales[home] for home in sorted(scales)],
        tuple(1 + max(home[axis] for home in scales) for axis in range(len(shape))),
    )
