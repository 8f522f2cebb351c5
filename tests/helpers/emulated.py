"""A GPU that is none: the kernels of `src/cuda` on the CPU, arrays in NumPy's memory
(`emulated_cuda.h`).
"""

from __future__ import annotations

import ctypes
import getpass
import hashlib
import os
import subprocess
import tempfile
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import qemu_swalp as q
from qemu_swalp.arrays.dtypes import SOURCE_DTYPES
from qemu_swalp.kernels import build
from qemu_swalp.kernels.backends.base import TensorKey
from qemu_swalp.kernels.backends.numpy import NumpyBackend
from qemu_swalp.kernels.gpu.copies import Copies
from qemu_swalp.kernels.gpu.processor import Gpu
from qemu_swalp.kernels.matmul_plan import Matrix, result_shape
from qemu_swalp.kernels.plan import plan_of
from qemu_swalp.kernels.processor import Memory, random_of
from qemu_swalp.ops.arguments import policy_of
from qemu_swalp.reference.context import Target

HERE = Path(__file__).parent
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-shared", "-ffp-contract=off"]
WARNINGS = ["-Wall", "-Werror", "-Wno-psabi"]


@cache
def library(program: build.CudaProgram) -> ctypes.CDLL:
    """The kernels of a program, compiled for the CPU once for all processes."""
    words = [f"-D{name}={value}" for name, value in program.definitions()]
    command = [
        *(build.compiler() or ["c++"]),
        *FLAGS,
        *WARNINGS,
        *words,
        f'-DPROGRAM="{program.source}"',
    ]
    target = _folder() / f"{hashlib.sha256(repr(command).encode()).hexdigest()[:16]}.so"
    if not target.exists():
        made = target.with_suffix(f".{os.getpid()}")
        paths = ["-I", build.SOURCES, "-I", HERE, HERE / "emulated_cuda.cpp", "-o", made]
        subprocess.run([*command, *paths], check=True)
        made.replace(target)
    return ctypes.CDLL(str(target))


@cache
def _folder() -> Path:
    """Of what is compiled from these sources."""
    own = b"".join((HERE / f"emulated_cuda.{kind}").read_bytes() for kind in ("h", "cpp"))
    sources = build.digest("cuda") + hashlib.sha256(own).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"qemu_swalp_emulated_{getpass.getuser()}_{sources}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


class EmulatedDevice:
    """A `kernels.gpu.device.Device`."""

    processors = 1

    def __init__(self) -> None:
        self.copies = Copies(self)
        self.launched: list[str] = []

    def stream(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def launch(
        self, program: build.CudaProgram, kernel: str, blocks: int, call: ctypes.Structure
    ) -> None:
        self.launched.append(kernel)
        getattr(library(program), f"emulated_{kernel}")(blocks, ctypes.byref(call))

    def zeros(self, size: int) -> tuple[int, Any]:
        memory = np.zeros(size, np.uint8)
        return memory.ctypes.data, memory

    def empty(self, size: int) -> tuple[int, Any]:
        memory = np.full(size, 0xFF, np.uint8)
        return memory.ctypes.data, memory

    def upload(self, data: bytes) -> tuple[int, Any]:
        memory = np.frombuffer(data, np.uint8)
        return memory.ctypes.data, memory

    def place(self, data: bytes) -> tuple[int, Any]:
        return self.upload(data)

    def refuse_capture(self) -> None: ...

    def captured_elsewhere(self) -> bool:
        return False

    def wait(self) -> None: ...

    def capturing(self) -> bool:
        return False

    def hold(self, copies: Any, scratch: Any = ()) -> None: ...


DEVICE = EmulatedDevice()
GPU = Gpu(DEVICE)


def quantize(
    x: np.ndarray,
    format: Any,
    rounding: Any = "nearest_even",
    random: Any = None,
    overflow: Any = None,
    out: np.ndarray | None = None,
    step_at: int | None = None,
) -> np.ndarray:
    """As `qemu_swalp.quantize`. AssertionError if the kernels do not support the format."""
    format, rounding = q.parse(format), q.Rounding.parse(rounding)
    out = np.empty_like(x) if out is None else out
    plan = plan_of(
        SOURCE_DTYPES[str(x.dtype)], Target(format, policy_of(format, overflow), rounding)
    )
    assert plan is not None
    if not rounding.stochastic:
        drawn = random_of(None)
    elif isinstance(random, np.ndarray):
        drawn = random_of(None, words=random.ctypes.data)
    else:
        drawn = random_of(random, step_at=step_at)
    memories = [Memory(a.ctypes.data, tuple(s // a.itemsize for s in a.strides)) for a in (x, out)]
    if not GPU.quantize(plan, format, x.shape, *memories, drawn):
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
    matrices = (Matrix(x.ctypes.data, x.shape) for x in (a, b))
    targets = q.Accumulation.parse(accumulation).targets
    assert GPU.matmul(
        str(a.dtype),
        *matrices,
        out.ctypes.data,
        targets,
        random_of(random, step_at=step_at),
        random,
    )
    return out


class EmulatedBackend(NumpyBackend):
    """NumPy arrays, worked on by the emulated GPU."""

    def tensor_key(self, x: Any) -> TensorKey | None:
        key = super().tensor_key(x)
        return None if key is None else key._replace(processor=GPU)


BACKEND = EmulatedBackend()
