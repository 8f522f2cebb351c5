"""CuPy arrays, on the current stream."""

from __future__ import annotations

from typing import Any

import cupy

from ..formats import Format
from ..randombits import RandomBits
from . import cpu, cuda
from .cupy_device import device
from .plan import Plan


def takes(x: Any, out: Any) -> bool:
    """Whether the kernels take such arrays."""
    return isinstance(x, cupy.ndarray) and (out is None or out.device == x.device)


def quantize(x: Any, plan: Plan, format: Format, random: RandomBits | Any | None, out: Any) -> Any:
    """As `kernels.quantize`."""
    gpu = device(x.device.id)
    with gpu.stream():
        source = x if _in_rows(x) else _copy(x)
        direct = out is not None and _in_rows(out) and (_same(out, source) or not cupy.may_share_memory(out, source))
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


def _bits(random: Any) -> Any:
    """A step on the GPU is read there."""
    step = getattr(random, "step", None)
    if isinstance(step, cupy.ndarray) and step.dtype.kind in "iu" and step.dtype.itemsize >= 4:
        return cpu.random_of(random, step.data.ptr)
    return cpu.random_of(random)


def _copy(x: Any) -> Any:
    return cupy.array(x, order="C")


def _in_rows(x: Any) -> bool:
    """Whether the kernels take the memory as it is: whole elements apart, the last axis contiguous."""
    last = x.flags.c_contiguous or x.shape[-1] == 1 or x.strides[-1] == x.itemsize
    return bool(last and x.data.ptr % x.itemsize == 0 and all(stride % x.itemsize == 0 for stride in x.strides))


def _memory(x: Any) -> cpu.Memory:
    return cpu.Memory(x.data.ptr, tuple(stride // x.itemsize for stride in x.strides))


def _same(a: Any, b: Any) -> bool:
    return bool(a.data.ptr == b.data.ptr and a.strides == b.strides)
