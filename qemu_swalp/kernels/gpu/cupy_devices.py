"""GPUs by way of CuPy, which compiles the kernels at their first use and keeps them on disk for the
next process.
"""

from __future__ import annotations

import ctypes
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import cache
from threading import get_ident
from typing import Any

import cupy
import numpy as np

from ..build import CudaProgram
from .copies import Copies
from .device import THREADS
from .processor import Gpu

_CAPTURING: defaultdict[int, set[tuple[type, int]]] = defaultdict(set)
"""GPU → (library's device, thread) of those that were capturing when they last asked."""


class CupyDevice:
    """A `Device`, on CuPy's current stream."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.processors = int(cupy.cuda.Device(index).attributes["MultiProcessorCount"])
        self._compiled: set[tuple[CudaProgram, str]] = set()
        """What has been launched once: each GPU has its own."""
        self.copies = Copies(self)

    def context(self) -> AbstractContextManager[Any]:
        """A context in which CuPy works on this GPU and on the caller's stream."""
        return cupy.cuda.Device(self.index)  # type: ignore[no-any-return]

    def stream(self) -> AbstractContextManager[Any]:
        return self.context()

    def capturing(self) -> bool:
        found, own = self._is_captured(), (type(self), get_ident())
        if found:
            _CAPTURING[self.index].add(own)
        else:
            _CAPTURING[self.index].discard(own)
        return found

    def captured_elsewhere(self) -> bool:
        """See `copies.Place`. CUDA tells of the captures of a stream, and of no others."""
        return any(thread != get_ident() for _, thread in tuple(_CAPTURING[self.index]))

    def _is_captured(self) -> bool:
        if cupy.cuda.get_current_stream().is_capturing():
            return True
        if cupy.cuda.runtime.getDevice() == self.index:
            return False
        with self.context():
            return bool(cupy.cuda.get_current_stream().is_capturing())

    def hold(self, copies: Sequence[Any], scratch: Sequence[Any] = ()) -> None:
        if self.capturing():  # what CuPy's pool gets back, it gives to others
            self.copies.keep_for_graph(*copies, *scratch)

    def launch(
        self, program: CudaProgram, kernel: str, blocks: int, call: ctypes.Structure
    ) -> None:
        if (program, kernel) not in self._compiled:
            self.refuse_capture()
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

    def refuse_capture(self) -> None:
        """See `copies.Place`. Of a kernel's first launch, too."""
        if self.capturing():
            raise RuntimeError(
                "the first rounding of its kind compiles kernels and copies tables to the GPU,"
                " which cannot be captured in a CUDA graph; do once what is to be captured, on a"
                " side stream, before the capture"
            )

    def place(self, data: bytes) -> tuple[int, Any]:
        """See `copies.Place`."""
        memory = self.upload(data)
        with self.context():
            cupy.cuda.get_current_stream().synchronize()
        return memory

    def wait(self) -> None:
        cupy.cuda.Device(self.index).synchronize()


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

    def _is_captured(self) -> bool:
        import torch

        if torch.cuda.is_current_stream_capturing():
            return True
        if torch.cuda.current_device() == self.index:
            return False
        with torch.cuda.device(self.index):
            return torch.cuda.is_current_stream_capturing()

    def hold(self, copies: Sequence[Any], scratch: Sequence[Any] = ()) -> None:
        if self.capturing() and copies:  # scratch is in the graph's own pool
            self.copies.keep_for_graph(*copies)

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
