"""CuPy arrays, on the current stream."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from ...arrays.dtypes import SOURCE_DTYPES
from ..gpu.availability import refusal
from ..gpu.cupy_devices import cupy_gpu
from ..processor import Memory, Processor
from ..strides import order_of
from .base import MemoryBackend, TensorKey


class CupyBackend(MemoryBackend):
    """CuPy arrays."""

    def accepts(self, x: Any, out: Any = None) -> bool:
        if not isinstance(x, cupy.ndarray) or refusal() is not None:
            return False
        return out is None or bool(out.device == x.device)

    def processor_of(self, x: Any) -> Processor:
        return cupy_gpu(x.device.id)

    def tensor_key(self, x: Any) -> TensorKey | None:
        if not self.accepts(x) or x.size == 0 or not self.aligned(x):
            return None
        if self.processor_of(x).capturing():  # as in PyTorch
            return None
        order = None if x.flags.c_contiguous else order_of(tuple(x.shape), self.memory(x).strides)
        if str(x.dtype) not in SOURCE_DTYPES or (order is None and not x.flags.c_contiguous):
            return None
        return TensorKey(str(x.dtype), self.processor_of(x), order)

    def empty_beside(self, x: Any) -> Any:
        with x.device:
            return cupy.empty_like(x)

    def address(self, x: Any) -> int:
        return int(x.data.ptr)

    def memory(self, x: Any) -> Memory:
        return Memory(x.data.ptr, tuple(stride // x.itemsize for stride in x.strides))

    def in_rows(self, x: Any) -> bool:
        last = x.flags.c_contiguous or x.shape[-1] == 1 or x.strides[-1] == x.itemsize
        return bool(last and self.aligned(x))

    def aligned(self, x: Any) -> bool:
        return all(at % x.itemsize == 0 for at in (x.data.ptr, *x.strides))

    def contiguous(self, x: Any) -> Any:
        return cupy.array(x, order="C")

    def empty(self, shape: tuple[int, ...], like: Any) -> Any:
        return cupy.empty(shape, like.dtype)

    def may_overlap(self, a: Any, b: Any) -> bool:
        return bool(cupy.may_share_memory(a, b))

    def widened(self, x: Any) -> Any:
        return cupy.ascontiguousarray(x, np.float32 if x.itemsize == 2 else None)

    def cast(self, x: Any, like: Any) -> Any:
        return x.astype(like.dtype, copy=False)

    def words(self, random: Any, like: Any) -> Any:
        return cupy.ascontiguousarray(cupy.asarray(random))  # asarray: on the current device

    def step_address(self, step: Any, like: Any) -> int | None:
        on_gpu = isinstance(step, cupy.ndarray) and step.device == like.device
        return step.data.ptr if on_gpu and step.dtype.kind in "iu" and step.itemsize >= 4 else None


BACKEND = CupyBackend()
