"""The fused kernels: what the array program computes, in one pass over memory, from one C++ source
for CPU and GPU.

`quantize` takes them where it can. They give the same bits. An array library, a device or a format
that they do not take goes to the array program.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

from ..arrays import Array, Namespace, namespace_of
from ..arrays.dtypes import SourceDtype
from ..formats import Format
from ..random_bits import RandomBits
from ..rounding import Rounding
from .threads import get_num_threads, set_num_threads

__all__ = ["disabled", "enabled", "get_num_threads", "quantize", "route_of", "set_num_threads"]

ROUTES = {"numpy": "numpy", "torch": "torch", "cupy": "cupy"}
"""Array library → our module that hands its arrays to the kernels."""

_enabled = os.environ.get("QEMU_SWALP_KERNELS", "on") != "off"


def enabled() -> bool:
    """Whether kernels are taken at all: not where the environment variable QEMU_SWALP_KERNELS is
    "off".
    """
    return _enabled


@contextmanager
def disabled() -> Iterator[None]:
    """Within it everything goes by the array program, in all threads. For comparisons.

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
def _route(library: str) -> Any:
    return import_module(f".backends.{ROUTES[library]}", __name__) if library in ROUTES else None


def route_of(x: Array) -> Any:
    """Our module that hands arrays of x's library to the kernels; None without one."""
    return _route(namespace_of(x).name) if _enabled else None


@cache
def _plan_of() -> Any:
    return import_module(".plan", __name__).plan_of  # late: it builds on the array program


def matmul(
    xp: Namespace, a: Array, b: Array, rules: Any, random: RandomBits | None
) -> Array | None:
    """The result of `qemu_swalp.matmul`, whose arguments are checked; None where the kernels do not
    take them.
    """
    route = _route(xp.name) if _enabled else None
    if route is None or not (route.takes(a, None) and route.takes(b, None)):
        return None
    return route.matmul(a, b, rules, random)


def quantize(
    xp: Namespace,
    x: Array,
    carrier: SourceDtype,
    format: Format,
    policy: str,
    rounding: Rounding,
    random: RandomBits | Array | None,
    out: Array | None,
) -> Array | None:
    """The result of `qemu_swalp.quantize`, whose arguments are checked; None where the kernels do
    not take them.

    x has elements. random : None unless the rounding is stochastic.
    """
    route = _route(xp.name) if _enabled else None
    if route is None or not route.takes(x, out):
        return None
    plan = _plan_of()(carrier, format, policy, rounding)
    return None if plan is None else route.quantize(x, plan, format, random, out)
