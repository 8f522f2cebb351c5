"""Formats given by a list of their values (clause FMT-7)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from .._util.checks import check_choice
from .table import TableFormat

SHORTHANDS: list[Callable[[Codebook], str | None]] = []
"""Functions that write a table by a shorter family, such as `levels`, if that is possible."""


@dataclass(frozen=True)
class Codebook(TableFormat, family="codebook"):
    """The listed values; the code of a value is its index in the list.

    Parameters
    ----------
    entries : at least two distinct finite numbers, in any order: as arguments, as one sequence, or
        as `values=`.
    dtype : "float32" (default) or "float64": the values are first rounded to it, so that arrays of
        it hold them.

    >>> from qemu_swalp import quantize
    >>> quantize([0.3, -7.0, 0.75], Codebook([-1, 0, 0.5, 1])).tolist()
    [0.5, -1.0, 0.5]
    """

    variadic: ClassVar[str] = "entries"

    entries: tuple[float, ...]
    dtype: Literal["float32", "float64"] = "float32"

    def __init__(
        self,
        *entries: float | Iterable[float],
        values: Iterable[float] | None = None,
        dtype: str = "float32",
    ) -> None:
        check_choice("dtype", dtype, ("float32", "float64"))
        listed = values if values is not None else entries
        if len(entries) == 1 and not isinstance(entries[0], int | float | np.number):
            listed = entries[0]
        items = [listed] if isinstance(listed, str) else list(listed)
        if any(isinstance(v, str) for v in items):
            raise TypeError(f"values must be numbers, got {listed!r}")
        numbers = [float(np.dtype(dtype).type(v)) + 0.0 for v in items]
        bad = next((v for v in numbers if not math.isfinite(v)), None)
        if bad is not None:
            raise ValueError(f"values must be finite in {dtype}, got {bad!r}")
        if len(numbers) < 2 or len(numbers) > 2**16:
            raise ValueError(f"a codebook needs from 2 to 65536 values, got {len(numbers)}")
        twice = next(
            (v for i, v in enumerate(sorted(numbers)[1:]) if v == sorted(numbers)[i]), None
        )
        if twice is not None:
            raise ValueError(f"values must be distinct in {dtype}, got {twice!r} twice")
        object.__setattr__(self, "entries", tuple(numbers))
        object.__setattr__(self, "dtype", dtype)

    @property
    def short_name(self) -> str | None:
        return next((name for write in SHORTHANDS if (name := write(self))), None)

    @property
    def table(self) -> tuple[float, ...]:
        return self.entries
