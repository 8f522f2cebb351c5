"""How many threads the CPU kernels use."""

from __future__ import annotations

import os
from ctypes import c_int

from .._util.checks import check_int

VARIABLES = ("QEMU_SWALP_NUM_THREADS", "OMP_NUM_THREADS")


def _default() -> int:
    for name in VARIABLES:
        value = os.environ.get(name, "").split(",")[0].strip()
        if value.isdigit() and int(value) > 0:
            return int(value)
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


_threads = c_int(_default())
"""Where the compiled library reads it too, when another library's program calls it."""


def get_num_threads() -> int:
    """Threads that quantizing a large NumPy array or CPU tensor may use. The bits do not depend on
    it.

    At first the environment's QEMU_SWALP_NUM_THREADS, else OMP_NUM_THREADS, else the CPUs that the
    process may use.
    """
    return _threads.value


def set_num_threads(threads: int) -> None:
    """Set it. ValueError unless it is from 1 to 1024.

    >>> import qemu_swalp as q
    >>> before = q.get_num_threads()
    >>> q.set_num_threads(1)
    >>> q.get_num_threads()
    1
    >>> q.set_num_threads(before)
    """
    check_int("threads", threads, 1, 1024)
    _threads.value = threads


def number_in_memory() -> c_int:
    """The number, which the compiled library reads where it is."""
    return _threads
