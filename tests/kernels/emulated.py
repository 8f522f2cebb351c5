"""A GPU that is none: the kernels of `src/gpu.cu` on the CPU, arrays in NumPy's memory (`emulated_cuda.h`)."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import qemu_swalp as q
from qemu_swalp.carriers import CARRIERS
from qemu_swalp.kernels import compiling, cpu, cuda
from qemu_swalp.kernels.plan import plan_of
from qemu_swalp.quantization import policy_of

HERE = Path(__file__).parent


@cache
def library(carrier: str, mode: str) -> ctypes.CDLL:
    """The kernels of a carrier and a mode, compiled for the CPU."""
    target = Path(_folder().name) / f"{carrier}-{mode}.so"
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-ffp-contract=off", "-Wall", "-Werror"]
    subprocess.run([*(compiling.compiler() or ["c++"]), *flags, f"-DQS_CARRIER={carrier}", f"-DQS_MODE={mode}",
                    "-I", compiling.SOURCES, "-I", HERE, HERE / "emulated_cuda.cpp", "-o", target], check=True)
    return ctypes.CDLL(str(target))


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


class EmulatedDevice:
    """As `cuda.Device`."""

    processors = 1

    def __init__(self) -> None:
        self.kept: list[np.ndarray] = []
        self.launched: list[str] = []

    def launch(self, kernel: str, carrier: str, mode: str, blocks: int, call: ctypes.Structure) -> None:
        self.launched.append(kernel)
        getattr(library(carrier, mode), f"emulated_{kernel}")(blocks, ctypes.byref(call))

    def zeros(self, size: int) -> tuple[int, Any]:
        memory = np.zeros(size, np.uint8)
        return memory.ctypes.data, memory

    def keep(self, values: np.ndarray) -> int:
        self.kept.append(values.copy())
        return self.kept[-1].ctypes.data


DEVICE = EmulatedDevice()


def quantize(x: np.ndarray, format: Any, rounding: Any = "nearest_even", random: Any = None, overflow: Any = None,
             out: np.ndarray | None = None, step_at: int | None = None) -> np.ndarray:
    """As `qemu_swalp.quantize`. AssertionError where the kernels do not take the format."""
    format, rounding = q.parse(format), q.Rounding.parse(rounding)
    out = np.empty_like(x) if out is None else out
    plan = plan_of(CARRIERS[str(x.dtype)], format, policy_of(format, overflow), rounding)
    assert plan is not None
    words = random.ctypes.data if isinstance(random, np.ndarray) else random
    bits = cpu.random_of(words if rounding.stochastic else None, step_at)
    memories = [cpu.Memory(a.ctypes.data, tuple(s // a.itemsize for s in a.strides)) for a in (x, out)]
    if not cuda.quantize(DEVICE, plan, format, x.shape, *memories, bits):
        out[...] = quantize(np.ascontiguousarray(x), format, rounding, random, overflow, None, step_at)
    return out
