"""Compiling the kernels: those for a CPU as the build of the package does and `python -m
qemu_swalp.kernels.build`; those for a GPU at their first use, by NVIDIA's run-time compiler
(NVRTC).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

SOURCES = Path(__file__).parent / "src"
LIBRARY = Path(__file__).parent / "library.bin"
"""Not a .so, which Python would import as a module."""

FLAGS = [
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-pthread",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-trapping-math",
]
AVX512 = [
    "-mavx512f",
    "-mavx512bw",
    "-mavx512dq",
    "-mavx512vl",
    "-mavx512cd",
    "-mprefer-vector-width=512",
]
VARIANTS: dict[str, list[str]] = {"baseline": []} | (
    {"avx2": ["-mavx2", "-mfma"], "avx512": AVX512}
    if platform.machine().lower() in ("x86_64", "amd64")
    else {}
)
"""Instruction set → compiler flags."""
DTYPES = ("Half", "BFloat", "Single", "Double")
"""Source dtypes as C++ names them."""
COMMON = ("library", "stored_call", "xla_ffi", "tensorflow_op")
"""Files of `cpu/` that are the same for all instruction sets."""


def digest(processor: str = "cpu") -> str:
    """Of the sources for a processor, "cpu" or "cuda": what was compiled from others is refused."""
    found = hashlib.sha256()
    for folder in ("common", processor):
        for path in sorted(path for path in (SOURCES / folder).rglob("*") if path.is_file()):
            found.update(path.relative_to(SOURCES).as_posix().encode() + path.read_bytes())
    return found.hexdigest()[:16]


def compiler() -> list[str] | None:
    """The C++ compiler's command: the environment variable CXX, else one that is found; None
    without one.
    """
    if os.environ.get("CXX"):
        return shlex.split(os.environ["CXX"])
    found = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    return None if found is None else [found]


def is_current(library: Path) -> bool:
    """Whether a library is there that was compiled from these sources, and loads here."""
    try:
        loaded = ctypes.CDLL(str(library))
        loaded.qs_sources.restype = ctypes.c_char_p
        sources: str = loaded.qs_sources().decode()
    except (OSError, AttributeError):
        return False
    return sources == digest()


class Unit(NamedTuple):
    """What the compiler is called for once."""

    name: str
    source: str
    flags: list[str]


def units() -> list[Unit]:
    """Of the library, in the order in which they are linked: of the standard library's functions
    that several units hold, the linker keeps the first one's, the baseline's.
    """
    sources = [f'-DQS_SOURCES="{digest()}"']
    return [Unit(name, f"cpu/{name}.cpp", sources) for name in COMMON] + [
        Unit(
            f"{variant}_{dtype}",
            "cpu/kernels.cpp",
            [*flags, f"-DQS_VARIANT={variant}", f"-DQS_DTYPE={dtype}"],
        )
        for variant, flags in VARIANTS.items()
        for dtype in DTYPES
    ]


def compile_library() -> Path | None:
    """Compile the kernels into the package. Their path; None without a compiler, or on Windows.

    CalledProcessError where the compiler fails.
    """
    command = compiler()
    if command is None or sys.platform == "win32":
        return None
    with tempfile.TemporaryDirectory() as folder:

        def compile_unit(unit: Unit) -> Path:
            target = Path(folder) / f"{unit.name}.o"
            source = str(SOURCES / unit.source)
            options = [*FLAGS, *unit.flags, f"-I{SOURCES}", "-c", source, "-o", str(target)]
            subprocess.run([*command, *options], check=True)
            return target

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_unit, units()))
        built = Path(folder) / LIBRARY.name
        subprocess.run(
            [*command, "-shared", "-pthread", *map(str, objects), "-ldl", "-o", str(built)],
            check=True,
        )
        shutil.copyfile(built, LIBRARY.with_suffix(".new"))
        LIBRARY.with_suffix(".new").replace(
            LIBRARY
        )  # in one step: a running process keeps the one that it has loaded
    return LIBRARY


class CudaProgram(NamedTuple):
    """A file of SOURCES, and what its capital words stand for: what it is compiled for."""

    source: str
    defined: tuple[tuple[str, str], ...]

    def text(self) -> str:
        """The source."""
        return (SOURCES / self.source).read_text()

    def definitions(self) -> tuple[tuple[str, str], ...]:
        """Of all macros: beside its own, how Python lays out the structures that both share."""
        from .layouts import fingerprint  # late: the build of the package runs this file alone

        return (*self.defined, ("QS_LAYOUTS", f"{fingerprint()}u"))

    def options(self) -> tuple[str, ...]:
        """Of the compiler. The digest is for caches, which see no header."""
        defined = (*self.definitions(), ("QS_SOURCES", digest("cuda")))
        return (
            "-std=c++17",
            "--device-int128",
            f"-I{SOURCES}",
            *(f"-D{name}={value}" for name, value in defined),
        )


if __name__ == "__main__":
    print(compile_library() or "no C++ compiler")
