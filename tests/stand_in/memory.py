"""Memory like that of CuPy's pools: what is given back is overwritten, and soon used again."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np

from . import graphs

ALIGNMENT = 512
"""Bytes, as CuPy's pools have it."""
_FREE: dict[int, list[np.ndarray]] = defaultdict(list)


class Allocation:
    """Bytes that belong to whoever holds views of this, and then to the pool again."""

    def __init__(self, size: int) -> None:
        rounded = max(1, -(-size // ALIGNMENT)) * ALIGNMENT
        self._free = _FREE[rounded]
        if not self._free:
            graphs.refuse_in_capture("cudaMalloc")
            self._free.append(np.empty(rounded + ALIGNMENT, np.uint8))
        self._whole = self._free.pop()
        start = self._whole.ctypes.data
        self.__array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (-(-start // ALIGNMENT) * ALIGNMENT, False),
            "version": 3,
        }

    def __del__(self) -> None:
        self._whole.fill(0xFF)
        self._free.append(self._whole)


def empty(shape: Any, dtype: Any) -> np.ndarray:
    """An array in memory of the pool, not initialized."""
    shape = tuple(shape) if isinstance(shape, list | tuple) else (int(shape),)
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    flat = np.asarray(Allocation(size))
    return flat.view(dtype).reshape(shape)
