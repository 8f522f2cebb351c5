"""A GPU that is none: the kernels of `src/cuda` on the CPU, arrays in NumPy's memory
(`emulated_cuda.h`).
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import qemu_swalp as q
from qemu_swalp.arrays.dtypes import SOURCE_DTYPES
from qemu_swalp.kernels import build as compiling
from qemu_swalp.kernels import cpu
from qemu_swalp.kernels.backends import numpy as numpy_arrays
from qemu_swalp.kernels.gpu import launch as cuda
from qemu_swalp.kernels.gpu import matmul as cuda_products
from qemu_swalp.kernels.matmul_plan import result_shape
from qemu_swalp.kernels.plan import plan_of
from qemu_swalp.ops.arguments import policy_of

HERE = Path(__file__).parent


@cache
def library(program: compiling.CudaProgram) -> ctypes.CDLL:
    """The kernels of a program, compiled for the CPU."""
    words = [f"-D{name}={value}" for name, value in program.defined]
    target = Path(_folder().name) / ("".join(words) + ".so")
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-ffp-contract=off", "-Wall", "-Werror"]
    subprocess.run(
        [
            *(compiling.compiler() or ["c++"]),
            *flags,
            *words,
            f'-DPROGRAM="{program.source}"',
            "-I",
            compiling.SOURCES,
            "-I",
            HERE,
            HERE / "emulated_cuda.cpp",
            "-o",
            target,
        ],
        check=True,
    )
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

    def launch(
        self, program: compiling.CudaProgram, kernel: str, blocks: int, call: ctypes.Structure
    ) -> None:
        self.launched.append(kernel)
        getattr(library(program), f"emulated_{kernel}")(blocks, ctypes.byref(call))

    def zeros(self, size: int) -> tuple[int, Any]:
        memory = np.zeros(size, np.uint8)
        return memory.ctypes.data, memory

    def upload(self, data: bytes) -> tuple[int, Any]:
        memory = np.frombuffer(data, np.uint8)
        return memory.ctypes.data, memory

    def keep(self, values: np.ndarray) -> int:
        self.kept.append(values.copy())
        return self.kept[-1].ctypes.data


DEVICE = EmulatedDevice()


def quantize(
    x: np.ndarray,
    format: Any,
    rounding: Any = "nearest_even",
    random: Any = None,
    overflow: Any = None,
    out: np.ndarray | None = None,
    step_at: int | None = None,
) -> np.ndarray:
    """As `qemu_swalp.quantize`. AssertionError where the kernels do not take the format."""
    format, rounding = q.parse(format), q.Rounding.parse(rounding)
    out = np.empty_like(x) if out is None else out
    plan = plan_of(SOURCE_DTYPES[str(x.dtype)], format, policy_of(format, overflow), rounding)
    assert plan is not None
    words = random.ctypes.data if isinstance(random, np.ndarray) else random
    bits = cpu.random_of(words if rounding.stochastic else None, step_at)
    memories = [
        cpu.Memory(a.ctypes.data, tuple(s // a.itemsize for s in a.strides)) for a in (x, out)
    ]
    if not cuda.quantize(DEVICE, plan, format, x.shape, *memories, bits):
        out[...] = quantize(
            np.ascontiguousarray(x), format, rounding, random, overflow, None, step_at
        )
    return out


def matmul(
    a: np.ndarray,
    b: np.ndarray,
    accumulation: Any,
    random: q.RandomBits,
    step_at: int | None = None,
) -> Any:
    """As `qemu_swalp.matmul` of float32 or float64 arrays."""
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    out = np.full(result_shape(a.shape, b.shape), np.nan, a.dtype)
    matrices = (cuda_products.Matrix(x.ctypes.data, x.shape) for x in (a, b))
    rules = q.Accumulation.parse(accumulation).rules
    assert cuda_products.matmul(
        DEVICE,
        str(a.dtype),
        *matrices,
        out.ctypes.data,
        rules,
        cpu.random_of(random, step_at),
        random,
    )
    return out


class SgdRoute:
    """The part of a route (`kernels.sgd`) that steps NumPy arrays on the device."""

    SGD_LIMITS = cuda.SGD_LIMITS
    kind, address, writable, empty_like = map(
        staticmethod,
        (numpy_arrays.kind, numpy_arrays.address, numpy_arrays.writable, np.empty_like),
    )

    def structure(self, chunks: Any, kind: Any) -> bytes:
        return cuda.sgd_on_device(chunks, DEVICE)

    def sgd(self, steps: Any, kind: Any, chunks: Any) -> None:
        cuda.sgd(DEVICE, steps, chunks)


SGD_ROUTE = SgdRoute()
