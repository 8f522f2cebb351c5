"""The compiled kernels: the results of the reference implementation in one pass over memory, from
one C++ source for CPUs and GPUs.

`quantize` dispatches to them where it can. Array libraries, devices and formats that they do not
support use the reference implementation, with the same bits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from ..arrays import Array, Namespace, namespace_of
from ..arrays.dtypes import SourceDtype
from ..random_bits import RandomBits
from ..reference.accumulation import AccumulationTargets
from ..reference.context import Target
from ..reference.given_scales import Given
from ..reference.overflow import MARK
from .threads import get_num_threads, set_num_threads

if TYPE_CHECKING:
    from .backends.base import KernelBackend, MemoryBackend

__all__ = ["backend_of", "disabled", "enabled", "get_num_threads", "quantize", "set_num_threads"]

BACKENDS = ("numpy", "torch", "cupy", "jax", "tensorflow")
"""Array libraries with a module of that name in `backends`."""

_enabled = os.environ.get("QEMU_SWALP_KERNELS", "on") != "off"


def enabled() -> bool:
    """Whether kernels are used at all: not if the environment variable QEMU_SWALP_KERNELS is
    "off".
    """
    return _enabled


@contextmanager
def disabled() -> Iterator[None]:
    """A context in which all threads use the reference implementation, for comparisons.

    >>> import qemu_swalp as q
    >>> with disabled():
    ...     q.quantize([0.1, 1.3], "e4m3fn").tolist()
    [0.1015625, 1.25]
    """
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


@cache
def _backend(library: str) -> KernelBackend | None:
    if library not in BACKENDS:
        return None
    backend: KernelBackend = import_module(f".backends.{library}", __name__).BACKEND
    return backend


def backend_of(x: Array) -> MemoryBackend | None:
    """The backend of x's array library; None if its arrays have no addresses, or kernels are
    disabled.
    """
    backend = _backend(namespace_of(x).name) if _enabled else None
    return None if backend is None else backend.by_address()


def matmul(
    xp: Namespace, a: Array, b: Array, targets: AccumulationTargets, random: RandomBits | None
) -> Array | None:
    """The result of `qemu_swalp.matmul` of checked arguments; None if no kernel supports them."""
    backend = _backend(xp.name) if _enabled else None
    if backend is None or not (backend.accepts(a) and backend.accepts(b)):
        return None
    return backend.matmul(a, b, targets, random)


def operate(
    xp: Namespace,
    operation: str,
    operands: Sequence[Array],
    shape: tuple[int, ...],
    target: Target,
    random: RandomBits | None,
) -> Array | None:
    """The elementary operation of checked operands, rounded once; None if no kernel supports it.

    operation : one of `cpu.OPERATIONS`.
    shape : of the result, which has elements; operands are broadcast to it.
    """
    backend = _backend(xp.name) if _enabled else None
    if backend is None or target.policy == MARK or not all(map(backend.accepts, operands)):
        return None
    wide = [
        x if shape and xp.shape(x) == shape else xp.broadcast(x, shape or (1,)) for x in operands
    ]
    result = backend.operate(operation, wide, target, random)
    return result if result is None or shape else xp.reshape(result, shape)


def hadamard(xp: Namespace, x: Array, axis: int, size: int, signs: Array | None) -> Array | None:
    """The transform of `qemu_swalp.hadamard_transform` of a checked array of float32 or float64 and
    signs of its dtype, one for each index of the axis; None if no kernel supports it.
    """
    backend = _backend(xp.name) if _enabled else None
    if backend is None or not backend.accepts(x):
        return None
    return backend.hadamard(x, axis, size, signs)


def quantize(
    xp: Namespace,
    x: Array,
    dtype: SourceDtype,
    target: Target,
    random: RandomBits | Array | None,
    out: Array | None,
    given: Given | None = None,
) -> Array | None:
    """The result of `qemu_swalp.quantize` of checked arguments; None if no kernel supports them.

    x has elements. random : None unless the rounding is stochastic.
    """
    backend = _backend(xp.name) if _enabled else None
    if backend is None or not backend.accepts(x, out):
        return None
    return backend.quantize(x, dtype, target, random, out, given)
