"""NVIDIA's run-time compiler, which needs no GPU."""

from __future__ import annotations

import ctypes
from functools import cache, lru_cache
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
    """The program, compiled; for an architecture such as "sm_90" the machine code is made along.
    RuntimeError with the compiler's log where it fails.
    """
    return _compiled(program.text(), program.options(), arch)[0].decode()


def cubin(program: CudaProgram, arch: str = "sm_90") -> bytes:
    """The program as machine code. RuntimeError as `ptx`."""
    return _compiled(program.text(), program.options(), arch)[1]


@lru_cache(maxsize=16)
def _compiled(text: str, options: tuple[str, ...], arch: str) -> tuple[bytes, bytes]:
    nvrtc, made = library(), ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(made), text.encode(), b"program.cu", 0, None, None)
    # CuPy adds these two of its own accord.
    given = [*options, "-ftz=true", "--device-as-default-execution-space", f"-arch={arch}"]
    status = nvrtc.nvrtcCompileProgram(
        made,
        len(given),
        (ctypes.c_char_p * len(given))(*(option.encode() for option in given)),
    )
    try:
        if status:
            raise RuntimeError(_bytes(made, "ProgramLog").decode())
        return _bytes(made, "PTX"), _bytes(made, "CUBIN") if arch.startswith("sm_") else b""
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(made))


def _bytes(program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    getattr(library(), f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(library(), f"nvrtcGet{what}")(program, buffer)
    return buffer.raw if what == "CUBIN" else buffer.value
