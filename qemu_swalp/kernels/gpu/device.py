"""GPUs by way of CuPy, which compiles the kernels at their first use and keeps them on disk for the
next process.
"""

from __future__ import annotations

import ctypes
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from typing import Any

import cupy
import numpy as np

from ..build import CudaProgram
from .launch import THREADS


class CupyDevice:
    """As `cuda.Device`, on CuPy's current stream."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.processors = int(cupy.cuda.Device(index).attributes["MultiProcessorCount"])

    def stream(self) -> AbstractContextManager[Any]:
        """Within it CuPy works on this GPU and on the caller's stream."""
        return cupy.cuda.Device(self.index)  # type: ignore[no-any-return]

    def launch(
        self, program: CudaProgram, kernel: str, blocks: int, call: ctypes.Structure
    ) -> None:
        by_value = np.frombuffer(bytearray(call), [("bytes", np.uint8, ctypes.sizeof(call))])
        with self.stream():
            _kernel(program, kernel)((blocks,), (THREADS,), (by_value,))

    def zeros(self, size: int) -> tuple[int, Any]:
        with self.stream():
            memory = cupy.zeros(size, np.uint8)
        return int(memory.data.ptr), memory

    def upload(self, data: bytes) -> tuple[int, Any]:
        with self.stream():
            memory = cupy.asarray(np.frombuffer(data, np.uint8))
        return int(memory.data.ptr), memory

    def keep(self, values: np.ndarray) -> int:
        with self.stream():
            kept = cupy.asarray(values)
            cupy.cuda.get_current_stream().synchronize()  # other streams read it too
        _kept.append(kept)
        return int(kept.data.ptr)


_kept: list[Any] = []


@cache
def device(index: int) -> CupyDevice:
    """The GPU of that number."""
    return CupyDevice(index)


@cache
def _kernel(program: CudaProgram, name: str) -> Any:
    return _module(program).get_function(name)


@cache
def _module(program: CudaProgram) -> Any:
    return cupy.RawModule(code=program.text(), options=program.options())


class TorchDevice(CupyDevice):
    """As `cuda.Device`, on PyTorch's current stream and with its memory."""

    def stream(self) -> AbstractContextManager[Any]:
        import torch

        both = ExitStack()
        both.enter_context(cupy.cuda.Device(self.index))
        both.enter_context(
            cupy.cuda.ExternalStream(torch.cuda.current_stream(self.index).cuda_stream, self.index)
        )
        return both

    def zeros(self, size: int) -> tuple[int, Any]:
        import torch

        memory = torch.zeros(size, dtype=torch.uint8, device=f"cuda:{self.index}")
        return memory.data_ptr(), memory


@cache
def torch_device(index: int) -> TorchDevice:
    """The GPU of that number, for PyTorch's tensors."""
    return TorchDevice(index)
