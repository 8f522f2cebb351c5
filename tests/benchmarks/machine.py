"""What figures depend on: the machine, its threads, versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import qemu_swalp as q
from qemu_swalp.kernels import cpu
from tests.benchmarks.libraries import Numpy
from tests.benchmarks.peers import PEERS


def description(libraries: Sequence[Numpy], peers: Sequence[str]) -> dict[str, Any]:
    """Plain values by name."""
    found = {
        "machine": (
            f"{platform.system()} {platform.machine()}, {cpu_model()}, {os.cpu_count()} CPUs"
        ),
        "threads": q.get_num_threads(),
        "load": (
            " ".join(f"{load:.1f}" for load in os.getloadavg())
            if hasattr(os, "getloadavg")
            else "unknown"
        ),
        "kernels": cpu.instruction_set() or "not compiled",
        "python": platform.python_version(),
        "qemu_swalp": q.__version__,
        "numpy": np.__version__,
    }
    for library in libraries:
        found[library.library] = library.xp.__version__
        if library.gpu():
            found["GPU"] = library.gpu()
    return found | {PEERS[name].distribution: PEERS[name].version() for name in peers}


def cpu_model() -> str:
    """As the system calls it."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown CPU"


def set_threads(threads: int, libraries: Sequence[Numpy]) -> None:
    """For our kernels and for PyTorch. NumPy copies on one."""
    q.set_num_threads(threads)
    for library in libraries:
        library.set_threads(threads)
