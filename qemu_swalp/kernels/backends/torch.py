"""PyTorch tensors of the host and of CUDA, without a copy; their gradients are the business of
`qemu_swalp_torch`.

Those of CUDA need CuPy, which compiles and launches the kernels.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

import torch

from .. import cpu
from ..cpu import CPU
from ..gpu.availability import refusal
from ..processor import Memory, Processor
from ..strides import order_of
from .base import MemoryBackend, TensorKey

NAMES = {
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float32: "float32",
    torch.float64: "float64",
}


@cache
def cupy_devices() -> Any:
    """`gpu.cupy_devices`; None without a CuPy that works."""
    if refusal() is not None:
        return None
    return import_module("..gpu.cupy_devices", __package__)


class TorchBackend(MemoryBackend):
    """Plain tensors with memory, outside any tracing."""

    def accepts(self, x: Any, out: Any = None) -> bool:
        if not _is_plain(x):
            return False
        if out is not None and not (_is_plain(out) and out.device == x.device and not out.is_neg()):
            return False
        return cpu.library() is not None if x.is_cpu else x.is_cuda and cupy_devices() is not None

    def processor_of(self, x: torch.Tensor) -> Processor:
        if x.is_cpu:
            return CPU
        return cupy_devices().torch_gpu(x.device.index)  # type: ignore[no-any-return]

    def tensor_key(self, x: Any) -> TensorKey | None:
        """Of CUDA tensors; those of the host go as NumPy arrays.

        None while a CUDA graph is captured: its replays would read the tables of tensors that a
        launch uploads, whose memory is free again by then.
        """
        if not self.accepts(x) or not x.is_cuda or x.is_neg() or x.numel() == 0:
            return None
        if self.processor_of(x).capturing():
            return None
        order = None if x.is_contiguous() else order_of(tuple(x.shape), x.stride())
        name = NAMES.get(x.dtype)
        if name is None or (order is None and not x.is_contiguous()):
            return None
        return TensorKey(name, self.processor_of(x), order)

    def empty_beside(self, x: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(x)

    def address(self, x: torch.Tensor) -> int:
        return x.data_ptr()

    def memory(self, x: torch.Tensor) -> Memory:
        return Memory(x.data_ptr(), tuple(x.stride()))

    def in_rows(self, x: torch.Tensor) -> bool:
        return x.is_contiguous() or x.shape[-1] == 1 or x.stride(-1) == 1

    def contiguous(self, x: torch.Tensor) -> torch.Tensor:
        return x.contiguous()

    def empty(self, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
        return torch.empty(shape, dtype=like.dtype, device=like.device)

    def may_overlap(self, a: torch.Tensor, b: torch.Tensor) -> bool:
        return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()

    def widened(self, x: torch.Tensor) -> torch.Tensor:
        return (x.float() if x.itemsize == 2 else x).contiguous()

    def cast(self, x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return x.to(like.dtype)

    def words(self, random: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return random.to(like.device).contiguous()

    def detached(self, x: torch.Tensor) -> torch.Tensor:
        return x.detach().resolve_neg()

    def write(self, out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return out.copy_(x)

    def written(self, out: torch.Tensor) -> torch.Tensor:
        torch.autograd.graph.increment_version(out)
        return out

    def hadamard(
        self, x: torch.Tensor, axis: int, size: int, signs: torch.Tensor | None
    ) -> torch.Tensor | None:
        if x.requires_grad and torch.is_grad_enabled():  # whose history is that of its sums
            return None
        return super().hadamard(x, axis, size, signs)

    def step_address(self, step: Any, like: torch.Tensor) -> int | None:
        """A step on the GPU is read there, so that the host need not wait for it."""
        on_gpu = isinstance(step, torch.Tensor) and step.is_cuda and step.device == like.device
        return step.data_ptr() if on_gpu and step.dtype in (torch.int32, torch.int64) else None

    def dtype_name(self, x: torch.Tensor) -> str:
        return str(x.dtype).removeprefix("torch.")


def _is_plain(x: Any) -> bool:
    return (
        type(x) in (torch.Tensor, torch.nn.Parameter)
        and x.layout == torch.strided
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and not torch.compiler.is_compiling()
    )


BACKEND = TorchBackend()
