"""GPUs by way of CuPy, which compiles the kernels at their first use and keeps them on disk for the
next process.
"""

from __future__ import annotations

import ctypes
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import cache
from typing import Any

import cupy
import numpy as np

from ..build import CudaProgram
from .device import THREADS
from .processor import Gpu


class CupyDevice:
    """A `Device`, on CuPy's current stream."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.processors = int(cupy.cuda.Device(index).attributes["MultiProcessorCount"])
        self._compiled: set[tuple[CudaProgram, str]] = set()
        """What has been launched once: each GPU has its own."""
        self._kept: dict[bytes, Any] = {}
        """Copies by their content: the same tables and layouts are one."""

    def context(self) -> AbstractContextManager[Any]:
        """A context in which CuPy works on this GPU and on the caller's stream."""
        return cupy.cuda.Device(self.index)  # type: ignore[no-any-return]

    def stream(self) -> AbstractContextManager[Any]:
        return self.context()

    def capturing(self) -> bool:
        """Whether a CUDA graph is being captured on the caller's stream."""
        return bool(cupy.cuda.get_current_stream().is_capturing())

    def launch(
        self, program: CudaProgram, kernel: str, blocks: int, call: ctypes.Structure
    ) -> None:
        if (program, kernel) not in self._compiled:
            self._refuse_capture()
            self._compiled.add((program, kernel))
        by_value = cupy.cuda.function.CPointer(ctypes.addressof(call))
        with self.context():
            _kernel(program, kernel)((blocks,), (THREADS,), (by_value,))

    def zeros(self, size: int) -> tuple[int, Any]:
        with self.context():
            memory = cupy.zeros(size, np.uint8)
        return int(memory.data.ptr), memory

    def empty(self, size: int) -> tuple[int, Any]:
        with self.context():
            memory = cupy.empty(size, np.uint8)
        return int(memory.data.ptr), memory

    def upload(self, data: bytes) -> tuple[int, Any]:
        with self.context():
            memory = cupy.asarray(np.frombuffer(data, np.uint8))
        return int(memory.data.ptr), memory

    def _refuse_capture(self) -> None:
        if self.capturing():
            raise RuntimeError(
                "the first rounding of its kind compiles kernels and copies tables to the GPU,"
                " which cannot be captured in a CUDA graph; do once what is to be captured, on a"
                " side stream, before the capture"
            )

    def keep(self, values: np.ndarray) -> int:
        data = values.tobytes()
        if data not in self._kept:
            self._refuse_capture()
            with self.context():
                copy = cupy.asarray(np.frombuffer(data, np.uint8))
                cupy.cuda.get_current_stream().synchronize()  # other streams read it too
            self._kept[data] = copy
        return int(self._kept[data].data.ptr)


@cache
def cupy_gpu(index: int) -> Gpu:
    """The GPU of that number, for CuPy arrays."""
    return Gpu(CupyDevice(index))


@cache
def _kernel(program: CudaProgram, name: str) -> Any:
    return _module(program).get_function(name)


@cache
def _module(program: CudaProgram) -> Any:
    return cupy.RawModule(code=program.text(), options=program.options())


class TorchDevice(CupyDevice):
    """A `Device`, on PyTorch's current stream and with its memory."""

    def capturing(self) -> bool:
        import torch

        return torch.cuda.is_current_stream_capturing()

    def stream(self) -> AbstractContextManager[Any]:
        return nullcontext()  # PyTorch allocates by the device of each tensor

    def context(self) -> AbstractContextManager[Any]:
        import torch

        contexts = ExitStack()
        contexts.enter_context(cupy.cuda.Device(self.index))
        stream = torch.cuda.current_stream(self.index)
        contexts.enter_context(cupy.cuda.Stream.from_external(stream))
        return contexts

    def zeros(self, size: int) -> tuple[int, Any]:
        import torch

        memory = torch.zeros(size, dtype=torch.uint8, device=f"cuda:{self.index}")
        return memory.data_ptr(), memory

    def empty(self, size: int) -> tuple[int, Any]:
        import torch

        memory = torch.empty(size, dtype=torch.uint8, device=f"cuda:{self.index}")
        return memory.data_ptr(), memory

    def upload(self, data: bytes) -> tuple[int, Any]:
        """In PyTorch's memory too: of a GPU that it has filled, CuPy would get none."""
        import torch

        host = torch.frombuffer(bytearray(data), dtype=torch.uint8).pin_memory()
        memory = host.to(f"cuda:{self.index}", non_blocking=True)
        return memory.data_ptr(), memory


@cache
def torch_gpu(index: int) -> Gpu:
    """The GPU of that number, for PyTorch's tensors."""
    return Gpu(TorchDevice(index))
