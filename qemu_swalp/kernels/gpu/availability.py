"""Whether CuPy can compile and launch the kernels here."""

from __future__ import annotations

import os
import tempfile
import warnings
from functools import cache
from importlib.util import find_spec
from pathlib import Path

OTHERS = {"on a GPU": "kernels for GPUs take the arrays of CuPy and PyTorch alone"}
"""What other libraries say of their GPUs: a line of `KernelBackend.refusals`."""


@cache
def refusal() -> str | None:
    """Why it cannot; None if it can. A CuPy that is installed and does not work is told of by one
    warning: arrays on a GPU then take the reference implementation.

    An import fails where the cache folder cannot be made or a library is missing, the first call
    without a driver or with one that is too old, compilation without NVRTC, or where a cache folder
    cannot be written to.
    """
    if find_spec("cupy") is None:
        return "CuPy is not installed"
    try:
        import cupy

        if cupy.cuda.runtime.is_hip:
            return "CuPy is built for ROCm, and the kernels are written for CUDA"
        if not cupy.cuda.runtime.getDeviceCount():
            return "CuPy finds no GPU"
        cupy.cuda.nvrtc.getVersion()
        _write_to_cache()
    except Exception as error:  # of whatever library is missing or does not fit
        if "cudaErrorNoDevice" in str(error):
            return "CuPy finds no GPU"
        reason = f"CuPy does not work here: {type(error).__name__}: {error}"
        warnings.warn(
            f"{reason}; arrays on a GPU are rounded by the reference implementation, which is"
            " slower. CuPy needs a driver for its version of CUDA, NVRTC, which"
            " cupy-cuda13x[ctk] brings, and a folder for compiled kernels (CUPY_CACHE_DIR)",
            stacklevel=2,
        )
        return reason
    return None


def _write_to_cache() -> None:
    """OSError if CuPy could not keep what it compiles."""
    if os.environ.get("CUPY_CACHE_IN_MEMORY") == "1":
        return
    folder = Path(os.environ.get("CUPY_CACHE_DIR", "~/.cupy/kernel_cache")).expanduser()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    with tempfile.TemporaryFile(dir=folder):
        pass
