"""PyTorch tensors of the host and of CUDA, without a copy. Their gradient is not ours to give: see
`qemu_swalp_torch`.

Those of CUDA need CuPy, which compiles and launches the kernels.
"""

from __future__ import annotations

from ctypes import c_char
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import torch

from ...formats import Format
from ...random_bits import RandomBits
from .. import cpu, structs
from .. import matmul_plan
from ..gpu import launch as cuda
from ..gpu import matmul as cuda_products
from ..gpu.matmul import Matrix
from ..plan import Plan


def takes(x: Any, out: Any) -> bool:
    """Whether the kernels take such tensors: plain ones with memory, outside any tracing."""
    if not _plain(x) or (out is not None and not (_plain(out) and out.device == x.device)):
        return False
    return cpu.library() is not None if x.is_cpu else x.is_cuda and gpus() is not None


def _plain(x: Any) -> bool:
    return (
        type(x) in (torch.Tensor, torch.nn.Parameter)
        and x.layout == torch.strided
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and not torch.compiler.is_compiling()
    )


@cache
def gpus() -> Any:
    """`cupy_device`; None without a CuPy that works."""
    try:
        return import_module("..gpu.device", __package__)
    except ImportError:
        return None


def quantize(
    x: torch.Tensor,
    plan: Plan,
    format: Format,
    random: RandomBits | torch.Tensor | None,
    out: torch.Tensor | None,
) -> torch.Tensor:
    """As `kernels.quantize`."""
    x = x.detach()
    source = x if _in_rows(x) else x.contiguous()
    target = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if out is not None and _in_rows(out) and (_same(out, source) or not _overlap(out, source)):
        target = out.detach()
    words = random.to(x.device).contiguous() if isinstance(random, torch.Tensor) else None
    if not _run(plan, format, source, target, random if words is None else words):
        source, target = (
            source.contiguous(),
            torch.empty_like(target, memory_format=torch.contiguous_format),
        )
        _run(plan, format, source, target, random if words is None else words)
    if out is None:
        return target
    with torch.no_grad():
        if target.data_ptr() != out.data_ptr() or target.stride() != out.stride():
            return out.copy_(target)
        torch.autograd.graph.increment_version(out)
    return out


def matmul(
    a: torch.Tensor, b: torch.Tensor, rules: matmul_plan.Rules, random: RandomBits | None
) -> Any:
    """As `kernels.matmul`."""
    if a.device != b.device:
        return None
    wide_a, wide_b = (
        (x.detach().float() if x.itemsize == 2 else x.detach()).contiguous() for x in (a, b)
    )
    if a.is_cpu:
        found = matmul_plan.matmul(_viewed(wide_a), _viewed(wide_b), rules, random)
        return None if found is None else torch.from_numpy(found).to(a.dtype)
    shapes = tuple(a.shape), tuple(b.shape)
    out = torch.empty(matmul_plan.result_shape(*shapes), dtype=wide_a.dtype, device=a.device)
    taken = cuda_products.matmul(
        gpus().torch_device(a.device.index),
        KINDS[out.dtype],
        Matrix(wide_a.data_ptr(), shapes[0]),
        Matrix(wide_b.data_ptr(), shapes[1]),
        out.data_ptr(),
        rules,
        _bits(random),
        random,
    )
    return out.to(a.dtype) if taken else None


def _viewed(x: torch.Tensor) -> np.ndarray:
    """A contiguous tensor as NumPy sees it. PyTorch's own views would keep FSDP from freeing the
    memory of weights.
    """
    memory = memoryview((c_char * x.nbytes).from_address(x.data_ptr()))
    found: np.ndarray = np.frombuffer(memory, str(x.dtype).removeprefix("torch.")).reshape(x.shape)
    return found


SGD_LIMITS = cuda.SGD_LIMITS
KINDS = {torch.float32: "float32", torch.float64: "float64"}


def kind(x: Any) -> tuple[str, int] | None:
    """Dtype and device of CUDA tensors that fused steps of SGD take (`kernels.sgd`); None for
    others.
    """
    if (
        not takes(x, None)
        or not x.is_cuda
        or not x.is_contiguous()
        or x.numel() == 0
        or x.dtype not in KINDS
    ):
        return None
    return KINDS[x.dtype], x.device.index


def address(x: torch.Tensor) -> int:
    """Of the first element."""
    return x.data_ptr()


def writable(x: torch.Tensor) -> bool:
    """Whether x may be written in place."""
    return True


empty_like = torch.empty_like


def structure(chunks: Any, kind: tuple[str, int]) -> bytes:
    """As `kernels.sgd` says."""
    return cuda.sgd_on_device(chunks, gpus().torch_device(kind[1]))


def sgd(steps: Any, kind: tuple[str, int], chunks: Any) -> None:
    """As `kernels.sgd` says."""
    cuda.sgd(gpus().torch_device(kind[1]), steps, chunks)


def _run(
    plan: Plan,
    format: Format,
    source: torch.Tensor,
    target: torch.Tensor,
    random: RandomBits | torch.Tensor | None,
) -> bool:
    """Whether the layout was taken."""
    memories = (tuple(source.shape), _memory(source), _memory(target))
    if source.is_cpu:
        bits = random.data_ptr() if isinstance(random, torch.Tensor) else random
        return cpu.quantize(plan, format, *memories, bits)
    return cuda.quantize(
        gpus().torch_device(source.device.index), plan, format, *memories, _bits(random)
    )


def _bits(random: RandomBits | torch.Tensor | None) -> structs.Random:
    """A step on the GPU is read there, so that the host need not wait for it."""
    if isinstance(random, torch.Tensor):
        return cpu.random_of(random.data_ptr())
    step: Any = getattr(random, "step", None)
    there = (
        isinstance(step, torch.Tensor) and step.is_cuda and step.dtype in (torch.int32, torch.int64)
    )
    return cpu.random_of(random, step.data_ptr() if there else None)


def _in_rows(x: torch.Tensor) -> bool:
    return x.is_contiguous() or x.shape[-1] == 1 or x.stride(-1) == 1


def _memory(x: torch.Tensor) -> cpu.Memory:
    return cpu.Memory(x.data_ptr(), tuple(x.stride()))


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.stride() == b.stride()


def _overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
