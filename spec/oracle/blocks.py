"""Block floating point (clauses BLK)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import NamedTuple

from .elements import Element
from .exact import NAN, binade, carrier, power
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


def in_force(element: Element, policy: str | None) -> str:
    """BLK-13: the overflow policy of a block's infinities, given the caller's."""
    return policy or ("propagate" if element.policy == "saturate" else element.policy)


def round_element(
    x: float | Fraction, element: Element, mode: str, word: int, policy: str
) -> float:
    """BLK-4, BLK-13: x, divided by the scale, as an element; infinities and NaN as they were."""
    if isinstance(x, float) and math.isinf(x) and policy == "propagate":
        return x
    if isinstance(x, float) and math.isinf(x) and policy == "nan":
        return NAN
    return quantize(x, element, mode, word, policy if policy in element.policies else "saturate")


def code_of(r: float, element: Element) -> int | None:
    """COD-1: the code of an element; None where the element format has no infinity or no NaN."""
    if math.isfinite(r) or (element.has_infinity if math.isinf(r) else element.nan_codes):
        return element.encode(r)
    return None


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
    """BLK-4, COD-4: an array quantized; a code is None where BLK-13 or RND-9 leaves what has
    none.
    """

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
    policy: str | None = None,
) -> Blocks:
    """BLK-4, BLK-13, for an array in C order."""
    policy = in_force(fmt.element, policy)
    homes = [fmt.block(index) for index in product(*map(range, shape))]
    scales = {home: fmt.scale(elements) for home, elements in members(array, homes).items()}
    rounded = [
        round_element(
            Fraction(x) / power(scales[home]) if math.isfinite(x) else x,
            fmt.element,
            mode,
            word,
            policy,
        )
        for home, x, word in zip(homes, array, words or [0] * len(array), strict=True)
    ]
    values = [
        carrier(Fraction(r) * power(scales[home])) if math.isfinite(r) else r
        for home, r in zip(homes, rounded, strict=True)
    ]
    return Blocks(
        values,
        [code_of(r, fmt.element) for r in rounded],
        [scales[home] for home in sorted(scales)],
        tuple(1 + max(home[axis] for home in scales) for axis in range(len(shape))),
    )
