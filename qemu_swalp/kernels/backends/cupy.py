"""CuPy arrays, on the current stream."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from ...formats import Format
from ...random_bits import RandomBits
from .. import cpu
from ..gpu import launch as cuda
from ..gpu import matmul as cuda_products
from ..gpu.device import device
from ..gpu.matmul import Matrix
from ..matmul_plan import result_shape
from ..plan import Plan


def takes(x: Any, out: Any) -> bool:
    """Whether the kernels take such arrays."""
    return isinstance(x, cupy.ndarray) and (out is None or out.device == x.device)


def quantize(x: Any, plan: Plan, format: Format, random: RandomBits | Any | None, out: Any) -> Any:
    """As `kernels.quantize`."""
    gpu = device(x.device.id)
    with gpu.stream():
        source = x if _in_rows(x) else _copy(x)
        direct = (
            out is not None
            and _in_rows(out)
            and (_same(out, source) or not cupy.may_share_memory(out, source))
        )
        target = out if direct else cupy.empty(x.shape, x.dtype)
        words = cupy.ascontiguousarray(random) if isinstance(random, cupy.ndarray) else None
        bits = _bits(random) if words is None else cpu.random_of(words.data.ptr)
        if not cuda.quantize(gpu, plan, format, x.shape, _memory(source), _memory(target), bits):
            source, target = _copy(source), cupy.empty(x.shape, x.dtype)
            cuda.quantize(gpu, plan, format, x.shape, _memory(source), _memory(target), bits)
        if out is None or target is out:
            return target
        out[...] = target
        return out


def matmul(a: Any, b: Any, rules: Any, random: RandomBits | None) -> Any:
    """As `kernels.matmul`."""
    gpu = device(a.device.id)
    with gpu.stream():
        wide_a, wide_b = (
            cupy.ascontiguousarray(x, np.float32 if x.itemsize == 2 else None) for x in (a, b)
        )
        out = cupy.empty(result_shape(a.shape, b.shape), wide_a.dtype)
        taken = cuda_products.matmul(
            gpu,
            str(out.dtype),
            Matrix(address(wide_a), a.shape),
            Matrix(address(wide_b), b.shape),
            address(out),
            rules,
            _bits(random),
            random,
        )
        return out.astype(a.dtype, copy=False) if taken else None


SGD_LIMITS = cuda.SGD_LIMITS


def kind(x: Any) -> tuple[str, int] | None:
    """Dtype and device of arrays that fused steps of SGD take (`kernels.sgd`); None for others."""
    if not isinstance(x, cupy.ndarray) or x.size == 0 or not x.flags.c_contiguous:
        return None
    return (str(x.dtype), int(x.device.id)) if x.dtype in (np.float32, np.float64) else None


def address(x: Any) -> int:
    """Of the first element."""
    return int(x.data.ptr)


def writable(x: Any) -> bool:
    """Whether x may be written in place."""
    return True


empty_like = cupy.empty_like


def structure(chunks: Any, kind: tuple[str, int]) -> bytes:
    """As `kernels.sgd` says."""
    return cuda.sgd_on_device(chunks, device(kind[1]))


def sgd(steps: Any, kind: tuple[str, int], chunks: Any) -> None:
    """As `kernels.sgd` says."""
    cuda.sgd(device(kind[1]), steps, chunks)


def _bits(random: Any) -> Any:
    """A step on the GPU is read there."""
    step = getattr(random, "step", None)
    if isinstance(step, cupy.ndarray) and step.dtype.kind in "iu" and step.dtype.itemsize >= 4:
        return cpu.random_of(random, step.data.ptr)
    return cpu.random_of(random)


def _copy(x: Any) -> Any:
    return cupy.array(x, order="C")


def _in_rows(x: Any) -> bool:
    """Whether the kernels take the memory as it is: whole elements apart, the last axis
    contiguous.
    """
    last = x.flags.c_contiguous or x.shape[-1] == 1 or x.strides[-1] == x.itemsize
    return bool(
        last
        and x.data.ptr % x.itemsize == 0
        and all(stride % x.itemsize == 0 for stride in x.strides)
    )


def _memory(x: Any) -> cpu.Memory:
    return cpu.Memory(x.data.ptr, tuple(stride // x.itemsize for stride in x.strides))


def _same(a: Any, b: Any) -> bool:
    return bool(a.data.ptr == b.data.ptr and a.strides == b.strides)
