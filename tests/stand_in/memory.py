"""Memory like that of CuPy's pools: what is given back is overwritten, and soon used again."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from typing import Any

import numpy as np

from . import graphs

ALIGNMENT = 512
"""Bytes, as CuPy's pools have it."""
DEVICES = 2
_FREE: dict[tuple[int, int], list[np.ndarray]] = defaultdict(list)
"""By device and bytes."""
_DEVICE_AT: dict[int, tuple[int, int]] = {}
"""Address → (bytes, device), of all memory that was ever taken."""
_ADDRESSES: list[int] = []
"""Sorted."""
current: list[int] = [0]
"""Devices, the current one last."""


def device_at(address: int) -> int | None:
    """The device whose memory has that address; None of the host's."""
    i = bisect_right(_ADDRESSES, address) - 1
    if i < 0:
        return None
    size, device = _DEVICE_AT[_ADDRESSES[i]]
    return device if address < _ADDRESSES[i] + size else None


def _take(size: int) -> np.ndarray:
    taken = np.empty(size, np.uint8)
    address = taken.ctypes.data
    _DEVICE_AT[address] = size, current[-1]
    _ADDRESSES.insert(bisect_right(_ADDRESSES, address), address)
    return taken


class Allocation:
    """Bytes that belong to whoever holds views of this, and then to the pool again."""

    def __init__(self, size: int) -> None:
        rounded = max(1, -(-size // ALIGNMENT)) * ALIGNMENT
        self._free = _FREE[current[-1], rounded]
        if not self._free:
            graphs.refuse_in_capture("cudaMalloc")
            self._free.append(_take(rounded + ALIGNMENT))
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
