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

    def context(self) -> AbstractContextManager[Any]:
        """A context in which CuPy works on this GPU and on the caller's stream."""
        return cupy.cuda.Device(self.index)  # type: ignore[no-any-return]

    def stream(self) -> AbstractContextManager[Any]:
        return self.context()

    def launch(
        self, program: CudaProgram, kernel: str, blocks: int, call: ctypes.Structure
    ) -> None:
        by_value = np.frombuffer(bytearray(call), [("bytes", np.uint8, ctypes.sizeof(call))])
        with self.context():
            _kernel(program, kernel)((blocks,), (THREADS,), (by_value,))

    def zeros(self, size: int) -> tuple[int, Any]:
        with self.context():
            memory = cupy.zeros(size, np.uint8)
        return int(memory.data.ptr), memory

    def upload(self, data: bytes) -> tuple[int, Any]:
        with self.context():
            memory = cupy.asarray(np.frombuffer(data, np.uint8))
        return int(memory.data.ptr), memory

    def keep(self, values: np.ndarray) -> int:
        with self.context():
            copy = cupy.asarray(values)
            cupy.cuda.get_current_stream().synchronize()  # other streams read it too
        _copies.append(copy)
        return int(copy.data.ptr)


_copies: list[Any] = []


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


@cache
def torch_gpu(index: int) -> Gpu:
    """The GPU of that number, for PyTorch's tensors."""
    return Gpu(TorchDevice(index))
