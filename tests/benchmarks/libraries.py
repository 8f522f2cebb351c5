"""The array libraries and devices whose arrays are measured, and the copy of each that figures are
ratios of.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from tests.benchmarks.timing import Call, host_clock
from tests.helpers.backends import gpu_missing

PAGE = 4096


def apart(x: np.ndarray) -> np.ndarray:
    """A copy that starts half a page off from x.

    A target that starts less than a cache line after its source, modulo the page, makes
    `numpy.copyto` of 256 KiB twelve times slower on an AMD Zen 3, and every ratio to it as much
    better.
    """
    room = np.empty(x.nbytes + PAGE, np.uint8)
    start = (x.ctypes.data + PAGE // 2 - room.ctypes.data) % PAGE
    found: np.ndarray = room[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    found[...] = x
    return found


class Numpy:
    """NumPy: `numpy.copyto`."""

    name = "numpy"
    library = "numpy"
    copy_name = "numpy.copyto"

    def __init__(self) -> None:
        self.xp: Any = np

    @staticmethod
    def missing() -> str:
        """Why it cannot run here; "" if it can."""
        return ""

    def array(self, x: np.ndarray) -> Any:
        return x

    def copy(self, x: Any) -> Call:
        """A copy of x into memory that is there and has been touched."""
        return partial(self.xp.copyto, self.empty(x), x)

    def empty(self, x: Any) -> Any:
        """An array like x, of touched memory."""
        return apart(x)

    def clock(self, call: Call, count: int) -> float:
        """Seconds of one of so many calls."""
        return host_clock(call, count)

    def gpu(self) -> str:
        """Its name; "" where the arrays are on the host."""
        return ""

    def set_threads(self, threads: int) -> None:
        """How many the library itself takes. NumPy's operations here take one."""


class Torch(Numpy):
    """PyTorch's tensors on the host, beside `numpy.copyto` of the same memory."""

    name = library = "torch"

    def __init__(self) -> None:
        import torch

        self.xp = torch

    def array(self, x: np.ndarray) -> Any:
        return self.xp.from_numpy(x)

    def copy(self, x: Any) -> Call:
        return partial(np.copyto, self.empty(x).numpy(), x.numpy())

    def empty(self, x: Any) -> Any:
        return self.array(apart(x.numpy()))

    def set_threads(self, threads: int) -> None:
        self.xp.set_num_threads(threads)


class Cupy(Numpy):
    """CuPy, timed by events on its stream."""

    name = library = "cupy"
    copy_name = "cupy.copyto"

    def __init__(self) -> None:
        import cupy

        self.xp = cupy

    @staticmethod
    def missing() -> str:
        return gpu_missing("cupy")

    def array(self, x: np.ndarray) -> Any:
        return self.xp.asarray(x)

    def empty(self, x: Any) -> Any:
        return self.xp.empty_like(x)

    def gpu(self) -> str:
        return str(self.xp.cuda.runtime.getDeviceProperties(0)["name"].decode())

    def clock(self, call: Call, count: int) -> float:
        start, end = self.xp.cuda.Event(), self.xp.cuda.Event()
        start.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
        return float(self.xp.cuda.get_elapsed_time(start, end)) / 1e3 / count


class TorchCuda(Torch):
    """PyTorch's tensors on a GPU, timed by events on the current stream."""

    name = "torch-cuda"
    copy_name = "Tensor.copy_"

    @staticmethod
    def missing() -> str:
        return gpu_missing("torch-cuda")

    def array(self, x: np.ndarray) -> Any:
        return self.xp.from_numpy(x).to("cuda")

    def empty(self, x: Any) -> Any:
        return self.xp.empty_like(x)

    def gpu(self) -> str:
        return str(self.xp.cuda.get_device_name())

    def copy(self, x: Any) -> Call:
        return partial(self.empty(x).copy_, x)

    def clock(self, call: Call, count: int) -> float:
        start, end = (self.xp.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / count


DEVICES: dict[str, tuple[type[Numpy], ...]] = {"cpu": (Numpy, Torch), "cuda": (Cupy, TorchCuda)}
"""Device → the libraries that have arrays on it."""
