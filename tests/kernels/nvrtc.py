"""NVIDIA's run-time compiler, which needs no GPU."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from qemu_swalp.kernels.compiling import CUDA_SOURCE, cuda_options

NAME = "libnvrtc.so.13"


@cache
def library() -> ctypes.CDLL:
    """The compiler of the distribution nvidia-cuda-nvrtc. ModuleNotFoundError without it."""
    spec = find_spec("nvidia.cu13")
    if spec is None:
        raise ModuleNotFoundError("NVRTC is not installed: pip install nvidia-cuda-nvrtc")
    folder = Path(next(iter(spec.submodule_search_locations)))
    return ctypes.CDLL(str(folder / "lib" / NAME))


def compile_kernels(carrier: str, mode: str, arch: str = "compute_90") -> str:
    """PTX of the kernels. RuntimeError with the compiler's log where it fails."""
    nvrtc, program = library(), ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), CUDA_SOURCE.read_bytes(), b"gpu.cu", 0, None, None)
    # CuPy adds these two of its own accord.
    options = [*cuda_options(carrier, mode), "-ftz=true", "--device-as-default-execution-space", f"-arch={arch}"]
    status = nvrtc.nvrtcCompileProgram(program, len(options),
                                       (ctypes.c_char_p * len(options))(*(option.encode() for option in options)))
    if status:
        raise RuntimeError(_text(program, "ProgramLog"))
    return _text(program, "PTX")


def _text(program: ctypes.c_void_p, what: str) -> str:
    size = ctypes.c_size_t()
    getattr(library(), f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(library(), f"nvrtcGet{what}")(program, buffer)
    return buffer.value.decode()
