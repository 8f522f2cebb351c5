"""NumPy arrays."""

from __future__ import annotations

from ctypes import addressof, c_char
from typing import Any

import numpy as np

from ...formats import Format
from ...random_bits import RandomBits
from .. import cpu
from .. import matmul_plan
from ..multi_tensor import Limits
from ..plan import Plan

SGD_LIMITS = Limits(chunk=8192, most=1 << 17)
"""Gradient, momentum and weight of a chunk stay in the cache."""
KINDS = {np.dtype(name): (name, "cpu") for name in ("float32", "float64")}


def takes(x: Any, out: Any) -> bool:
    """Whether the kernels take such arrays. `out` that cannot be written is left to the array
    program's error.
    """
    return (
        isinstance(x, np.ndarray)
        and (out is None or out.flags.writeable)
        and cpu.library() is not None
    )


def quantize(
    x: np.ndarray,
    plan: Plan,
    format: Format,
    random: RandomBits | np.ndarray | None,
    out: np.ndarray | None,
) -> Any:
    """As `kernels.quantize`."""
    source = x if _in_rows(x) else _copy(x)
    direct = (
        out is not None
        and _in_rows(out)
        and (_same(out, source) or not np.may_share_memory(out, source))
    )
    target = out if out is not None and direct else np.empty(x.shape, x.dtype)
    words = np.ascontiguousarray(random) if isinstance(random, np.ndarray) else None
    bits: Any = random if words is None else address(words)
    if not cpu.quantize(plan, format, x.shape, _memory(source), _memory(target), bits):
        source, target = _copy(source), np.empty(x.shape, x.dtype)
        cpu.quantize(plan, format, x.shape, _memory(source), _memory(target), bits)
    if out is None or target is out:
        return target
    out[...] = target
    return out


def matmul(a: np.ndarray, b: np.ndarray, rules: matmul_plan.Rules, random: RandomBits | None) -> Any:
    """As `kernels.matmul`."""
    wide_a, wide_b = (x.astype(np.float32) if x.itemsize == 2 else x for x in (a, b))
    found = matmul_plan.matmul(wide_a, wide_b, rules, random)
    return None if found is None else found.astype(a.dtype, copy=False)


def kind(x: Any) -> tuple[str, str] | None:
    """Dtype and device of arrays that fused steps of SGD take (`kernels.sgd`); None for others."""
    if type(x) is not np.ndarray or x.size == 0 or cpu.library() is None:
        return None
    flags = x.flags
    return KINDS.get(x.dtype) if flags.c_contiguous and flags.aligned else None


def writable(x: np.ndarray) -> bool:
    """Whether x may be written in place."""
    return x.flags.writeable


empty_like = np.empty_like


def structure(chunks: Any, kind: Any) -> bytes:
    """As it is: it points to the host's memory."""
    return chunks.structure  # type: ignore[no-any-return]


def sgd(steps: Any, kind: Any, chunks: Any) -> None:
    """As `kernels.sgd` says."""
    cpu.sgd(steps)


def _copy(x: np.ndarray) -> np.ndarray:
    return np.array(x, order="C", subok=False)


def _in_rows(x: np.ndarray) -> bool:
    """Whether the kernels take the memory as it is: aligned, whole elements apart, the last axis
    contiguous.
    """
    size = x.itemsize
    if x.flags.c_contiguous:
        return bool(x.flags.aligned)
    last = x.shape[-1] == 1 or x.strides[-1] == size
    return bool(x.flags.aligned and last and all(stride % size == 0 for stride in x.strides))


def _memory(x: np.ndarray) -> cpu.Memory:
    size = x.itemsize
    return cpu.Memory(address(x), tuple([stride // size for stride in x.strides]))


def address(x: np.ndarray) -> int:
    """Of the first element."""
    if x.dtype.isbuiltin == 1 and x.flags.c_contiguous and x.flags.writeable:
        return addressof(c_char.from_buffer(x))  # type: ignore[arg-type]  # a tenth of the time
    return x.__array_interface__["data"][0]  # type: ignore[no-any-return]


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return address(a) == address(b) and a.strides == b.strides
