"""Formats whose values are evenly spaced within each binade (clause FMT-2)."""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import cached_property

import numpy as np

from ..arrays import Array, Namespace, numpy_namespace
from .base import ElementFormat

SPAN = 2200
"""Binades from below float64's least, 2^-1074, to its greatest, 2^1023."""


class BinadeFormat(ElementFormat):
    """Values that are evenly spaced within each binade (clause FMT-2).

    A custom format needs `max` and `quantum`. `quantum` is written once, with array operators
    and the functions of the namespace `xp` (`maximum`, `minimum`, `where`, `abs`), and then serves
    every array library, every rounding mode and every tool:

    >>> import dataclasses, qemu_swalp as q
    >>> @dataclasses.dataclass(frozen=True)
    ... class Tapered(q.BinadeFormat, family="tapered"):
    ...     "Most precise near 1; one bit less for every two binades away from it."
    ...     fraction: int
    ...     @property
    ...     def max(self):
    ...         return 2.0 ** (2 * self.fraction)
    ...     def quantum(self, binade, xp):
    ...         fraction = xp.maximum(self.fraction - xp.abs(binade) // 2, 0)
    ...         return xp.maximum(binade - fraction, -2 * self.fraction)
    >>> q.quantize([1.05, 100.0, 0.001], "tapered<4>").tolist()
    [1.0625, 96.0, 0.0]
    """

    @property
    def signed(self) -> bool:
        return True

    @property
    def has_zero(self) -> bool:
        return True

    @abstractmethod
    def quantum(self, binade: Array, xp: Namespace) -> Array:
        """Exponent of the spacing of the values in a binade.

        `binade`: integer array. Returns an integer array (or an int, where it is the same
        everywhere).
        """

    def parity(self, n: Array, binade: Array, xp: Namespace) -> Array:
        """0 or 1: whether the candidate toward zero, n·2^quantum(binade), counts as even or odd
        (clause RND-5).
        """
        return n & 1

    def is_odd_end(self, above: bool) -> bool:
        return (above or self.signed) and self.positive_count % 2 == 1

    @property
    def min(self) -> float:
        return -self.max if self.signed else (0.0 if self.has_zero else self.min_positive)

    def __post_init__(self) -> None:
        self.check_grid()

    def check_grid(self) -> None:
        """Raise ValueError unless clause FMT-2 holds."""
        who = f"{type(self).__name__}: "
        if not 0 < self.max < float("inf"):
            raise ValueError(f"{who}max must be a positive finite float, got {self.max!r}")
        self.check_overflow(self.overflow)
        _ = self._grid
        for end in (self.max, -self.min):
            if end > 0 and _divided(end, self.quantum_at(binade(end)))[1]:
                raise ValueError(
                    f"{who}{end!r} ends the range and is not a multiple of "
                    f"2^{self.quantum_at(binade(end))}, the spacing in its binade"
                )

    def quantum_at(self, e: int) -> int:
        """`quantum` of one binade, as an int."""
        xp = numpy_namespace()
        return int(xp.broadcast(self.quantum(xp.integers([e], 32), xp), (1,))[0])

    @cached_property
    def _grid(self) -> list[tuple[int, int]]:
        """(binade, quantum) of every binade that holds positive values, ascending; checked against
        FMT-2.
        """
        who = f"{type(self).__name__}: "
        binades, quanta = self.sample()
        if self.has_zero:
            empty = np.flatnonzero(quanta > binades)
            if not empty.size:
                raise ValueError(
                    f"{who}quantum(e) never exceeds e, so the values near zero never end; bound it"
                    " below, as in xp.maximum(quantum, -20)"
                )
            first = int(empty[-1]) + 1
            if first == SPAN + 1:
                raise ValueError(
                    f"{who}quantum({binades[-1]}) = {quanta[-1]} exceeds {binades[-1]}, the binade"
                    " of max"
                )
            least = binades[first]
            wrong = np.flatnonzero(quanta[:first] != least)
            if wrong.size:
                raise ValueError(
                    f"{who}below its least positive value 2^{least} a format must have quantum(e) ="
                    f" {least}, got quantum({binades[wrong[0]]}) = {quanta[wrong[0]]}"
                )
        else:
            first = binade(self.min_positive) - int(binades[0])
        return list(zip(binades[first:].tolist(), quanta[first:].tolist(), strict=True))

    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """(binades, quantum in each), ascending to the binade of the greatest magnitude, through
        all that float64 has: int32 and int64 arrays.
        """
        top, xp = binade(max(self.max, -self.min)), numpy_namespace()
        binades = np.arange(top - SPAN, top + 1, dtype=np.int32)
        return binades, xp.broadcast(self.quantum(binades, xp), binades.shape).astype(np.int64)

    @cached_property
    def min_positive(self) -> float:
        """Least positive value."""
        return float(2.0 ** self._grid[0][0])

    @property
    def epsilon(self) -> float:
        """Distance from 1 to the next value above it."""
        return float(2.0 ** self.quantum_at(0))

    @cached_property
    def positive_count(self) -> int:
        """Number of positive values."""
        return self.rank(self.max)

    @cached_property
    def value_count(self) -> int:
        negative = self.rank(-self.min) if self.min < 0 else 0
        return self.positive_count + negative + bool(self.has_zero)

    @cached_property
    def first_ranks(self) -> list[int]:
        """Rank (from 1), among the positive values, of the first one of each binade."""
        ranks = [1]
        for e, q in self._grid:
            ranks.append(ranks[-1] + (1 << (e - q)))
        return ranks

    def rank(self, x: float) -> int:
        """Rank (from 1) of a positive value among the positive values, ascending."""
        e = binade(x)
        least = self._grid[0][0]
        q = self._grid[e - least][1]
        n, _ = _divided(x, q)
        return self.first_ranks[e - least] + n - (1 << (e - q))

    def values(self) -> list[float]:
        if self.value_count > 2**16:
            raise ValueError(f"{self} has {self.value_count} values; values() lists at most 65536")
        positive = [
            n * 2.0**q for e, q in self._grid for n in range(2 ** (e - q), 2 ** (e - q + 1))
        ]
        negative = [-v for v in reversed(positive) if -v >= self.min] if self.signed else []
        return negative + ([0.0] if self.has_zero else []) + [v for v in positive if v <= self.max]

    @cached_property
    def precision(self) -> int:
        return max(e - q + 1 if 2.0**e < self.max else 1 for e, q in self._grid)

    @property
    def least_exponent(self) -> int:
        return min(q for _, q in self._grid)

    # Codes: sign-magnitude by rank (clause COD-3); families with codes of their own override these
    # four.

    @property
    def bits(self) -> int:
        return (self.positive_count).bit_length() + self.signed

    def encode_parts(self, negative: Array, n: Array, binade: Array, xp: Namespace) -> Array:
        """Code of ±n·2^quantum(binade). Integer arrays in, integer array out."""
        least = self._grid[0][0]
        index = xp.minimum(xp.maximum(binade - least, 0), len(self._grid) - 1)
        starts = [f - 2 ** (e - q) for f, (e, q) in zip(self.first_ranks, self._grid, strict=False)]
        magnitude = xp.where(n == 0, 0, xp.take(starts, index) + n)
        return (
            xp.where(negative, magnitude + (1 << (self.bits - 1)), magnitude)
            if self.signed
            else magnitude
        )

    def decode_parts(self, code: Array, xp: Namespace) -> tuple[Array, Array, Array]:
        """(negative, n, q) of a code: it stands for ±n·2^q."""
        magnitude_bits = self.bits - self.signed
        magnitude = code & ((1 << magnitude_bits) - 1)
        index = xp.maximum(xp.searchsorted(self.first_ranks[:-1], magnitude) - 1, 0)
        starts = [f - 2 ** (e - q) for f, (e, q) in zip(self.first_ranks, self._grid, strict=False)]
        n = xp.where(magnitude == 0, 0, magnitude - xp.take(starts, index))
        negative = (xp.shift_right(code, magnitude_bits) & 1) == 1
        return negative, n, xp.take([q for _, q in self._grid], index)

    @property
    def infinity_code(self) -> int | None:
        """Code of +infinity; None without one."""
        return None

    @property
    def nan_code(self) -> int | None:
        """The NaN code that `encode` gives (clause COD-2); None without one."""
        return None

    def special_codes(self, code: Array, xp: Namespace) -> tuple[Array | None, Array | None]:
        """Masks of the codes that stand for infinity and for NaN (None: there are none)."""
        return None, None


def _divided(x: float, q: int) -> tuple[int, int]:
    """⌊x/2^q⌋, and the remainder, which is 0 if x is a multiple of 2^q."""
    numerator, denominator = x.as_integer_ratio()
    return divmod(numerator << max(-q, 0), denominator << max(q, 0))


def binade(x: float) -> int:
    """⌊log2 |x|⌋ of a finite non-zero float, exactly, subnormals included."""
    return math.frexp(x)[1] - 1
