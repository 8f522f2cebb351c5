"""A CuPy that is installed and does not work: one warning, and the reference implementation."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import warnings
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    from qemu_swalp.kernels.backends.torch import cupy_devices
    assert cupy_devices() is None
    assert cupy_devices() is None
    from qemu_swalp.kernels.gpu.availability import refusal
    print(refusal())
print(*(w.message for w in seen if "CuPy" in str(w.message)), sep="\\n")
"""
WORKING = (
    "from types import SimpleNamespace as N\n"
    "cuda = N(runtime=N(is_hip={hip}, getDeviceCount={count}), nvrtc=N({nvrtc}))\n"
)


def fails(error: str) -> str:
    return f"def fail(*a): raise {error}\n"


BROKEN = {
    "a folder that cannot be written": (
        "raise PermissionError(13, 'Permission denied', '/home/.cupy')",
        "PermissionError",
    ),
    "a library that is missing": ("raise ImportError('libcuda.so.1: cannot open')", "ImportError"),
    "no driver": (
        fails("RuntimeError('cudaErrorInsufficientDriver')")
        + WORKING.format(count="fail", nvrtc="getVersion=lambda: (13, 0)", hip=False),
        "cudaErrorInsufficientDriver",
    ),
    "no NVRTC": (
        fails("RuntimeError('libnvrtc.so.13 is missing')")
        + WORKING.format(count="lambda: 1", nvrtc="getVersion=fail", hip=False),
        "libnvrtc",
    ),
}


REASON = "from qemu_swalp.kernels.gpu.availability import refusal; print(refusal())"


def told(folder: Path, code: str, program: str = PROGRAM, **variables: str) -> list[str]:
    """What a process says whose `cupy` is that module. variables : of its environment."""
    (folder / "cupy.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(folder)!r}]\n{program}"],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", BROKEN)
def test_it_is_told_once(name: str, tmp_path: Path) -> None:
    code, words = BROKEN[name]
    reason, warning = told(tmp_path, code)
    assert words in reason
    assert "CuPy does not work here" in warning
    assert "CUPY_CACHE_DIR" in warning


WHOLE = WORKING.format(count="lambda: 1", nvrtc="getVersion=lambda: (13, 0)", hip=False)


def test_a_cache_that_cannot_be_written_is_told_before_anything_is_compiled(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        reason, warning = told(tmp_path, WHOLE, CUPY_CACHE_DIR=str(folder))
        assert "NotADirectoryError" in reason
        assert "CUPY_CACHE_DIR" in warning
    for usable in (
        {"CUPY_CACHE_DIR": str(tmp_path / "file"), "CUPY_CACHE_IN_MEMORY": "1"},
        {"CUPY_CACHE_DIR": str(tmp_path / "new" / "cache")},
    ):
        assert told(tmp_path, WHOLE, REASON, **usable) == ["None"]
    assert not (tmp_path / "new").exists()


def test_a_machine_without_gpu_is_no_fault(tmp_path: Path) -> None:
    code = WORKING.format(count="lambda: 0", nvrtc="", hip=False)
    assert told(tmp_path, code) == ["CuPy finds no GPU", ""]


def test_nor_is_one_whose_driver_says_so(tmp_path: Path) -> None:
    code = fails("RuntimeError('cudaErrorNoDevice: no CUDA-capable device is detected')")
    code += WORKING.format(count="fail", nvrtc="", hip=False)
    assert told(tmp_path, code) == ["CuPy finds no GPU", ""]


def test_the_extra_brings_nvrtc_and_no_version_that_is_not_known() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (requirement,) = project["optional-dependencies"]["cupy"]
    assert "[ctk]" in requirement
    assert "<15" in requirement


def test_nor_is_one_of_another_maker(tmp_path: Path) -> None:
    code = WORKING.format(count="lambda: 1", nvrtc="", hip=True)
    reason = "CuPy is built for ROCm, and the kernels are written for CUDA"
    assert told(tmp_path, code) == [reason, ""]
