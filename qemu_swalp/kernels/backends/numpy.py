"""NumPy arrays."""

from __future__ import annotations

from ctypes import addressof, c_char
from typing import Any

import numpy as np

from .. import cpu
from ..cpu import CPU
from ..processor import Memory
from .base import MemoryBackend, TensorKey

KEYS = {np.dtype(name): TensorKey(name, CPU) for name in ("float32", "float64")}


class NumpyBackend(MemoryBackend):
    """NumPy arrays. An `out` that is read-only is left to the reference implementation's error."""

    def accepts(self, x: Any, out: Any = None) -> bool:
        return (
            isinstance(x, np.ndarray)
            and (out is None or out.flags.writeable)
            and cpu.library() is not None
        )

    def processor_of(self, x: np.ndarray) -> cpu.Cpu:
        return CPU

    def tensor_key(self, x: Any) -> TensorKey | None:
        if type(x) is not np.ndarray or x.size == 0 or cpu.library() is None:
            return None
        flags = x.flags
        return KEYS.get(x.dtype) if flags.c_contiguous and flags.aligned else None

    def dtype_name(self, x: np.ndarray) -> str:
        key = KEYS.get(x.dtype)
        return str(x.dtype) if key is None else key.dtype

    def address(self, x: np.ndarray) -> int:
        if x.dtype.isbuiltin == 1 and x.flags.c_contiguous and x.flags.writeable:
            return addressof(c_char.from_buffer(x))  # type: ignore[arg-type]  # a tenth of the time
        return x.__array_interface__["data"][0]  # type: ignore[no-any-return]

    def memory(self, x: np.ndarray) -> Memory:
        size = x.itemsize
        return Memory(self.address(x), tuple([stride // size for stride in x.strides]))

    def in_rows(self, x: np.ndarray) -> bool:
        if x.flags.c_contiguous or not x.flags.aligned:
            return bool(x.flags.aligned)
        size = x.itemsize
        last = x.shape[-1] == 1 or x.strides[-1] == size
        return bool(last and all(stride % size == 0 for stride in x.strides))

    def in_strides(self, x: np.ndarray) -> bool:
        return x.flags.aligned and all(stride % x.itemsize == 0 for stride in x.strides)

    def contiguous(self, x: np.ndarray) -> np.ndarray:
        return np.array(x, order="C", subok=False)

    def empty(self, shape: tuple[int, ...], like: np.ndarray) -> np.ndarray:
        return np.empty(shape, like.dtype)

    def may_overlap(self, a: np.ndarray, b: np.ndarray) -> bool:
        return np.may_share_memory(a, b)

    def writable(self, x: np.ndarray) -> bool:
        return x.flags.writeable

    def widened(self, x: np.ndarray) -> np.ndarray:
        return np.require(x, np.float32 if x.itemsize == 2 else None, ["C", "A"])

    def cast(self, x: np.ndarray, like: np.ndarray) -> np.ndarray:
        return x.astype(like.dtype, copy=False)

    def words(self, random: np.ndarray, like: np.ndarray) -> np.ndarray:
        return np.require(random, None, ["C", "A"])


BACKEND = NumpyBackend()
