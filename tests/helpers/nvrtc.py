"""NVIDIA's run-time compiler, which needs no GPU."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from qemu_swalp.kernels.build import CudaProgram

NAME = "libnvrtc.so.13"


@cache
def library() -> ctypes.CDLL:
    """The compiler of the distribution nvidia-cuda-nvrtc. ModuleNotFoundError without it."""
    spec = find_spec("nvidia.cu13")
    if spec is None:
        raise ModuleNotFoundError("NVRTC is not installed: pip install nvidia-cuda-nvrtc")
    folder = Path(next(iter(spec.submodule_search_locations)))
    return ctypes.CDLL(str(folder / "lib" / NAME))


def ptx(program: CudaProgram, arch: str = "compute_90") -> str:
    """The program, compiled. RuntimeError with the compiler's log where it fails."""
    return _compiled(program, arch, "PTX").decode()


def cubin(program: CudaProgram, arch: str) -> bytes:
    """The program as machine code. RuntimeError as `ptx`."""
    return _compiled(program, arch, "CUBIN")


def _compiled(program: CudaProgram, arch: str, what: str) -> bytes:
    nvrtc, made = library(), ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(
        ctypes.byref(made), program.text().encode(), program.source.encode(), 0, None, None
    )
    # CuPy adds these two of its own accord.
    options = [
        *program.options(),
        "-ftz=true",
        "--device-as-default-execution-space",
        f"-arch={arch}",
    ]
    status = nvrtc.nvrtcCompileProgram(
        made,
        len(options),
        (ctypes.c_char_p * len(options))(*(option.encode() for option in options)),
    )
    try:
        if status:
            raise RuntimeError(_bytes(made, "ProgramLog").decode())
        return _bytes(made, what)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(made))


def _bytes(program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    getattr(library(), f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(library(), f"nvrtcGet{what}")(program, buffer)
    return buffer.raw if what == "CUBIN" else buffer.value
