"""These tests need the compiled library; where there is no compiler they skip by name, and in CI
they fail.
"""

from __future__ import annotations

import os

import pytest

from qemu_swalp.kernels import build as compiling, cpu


@pytest.fixture(autouse=True)
def _compiled() -> None:
    if cpu.library() is None:
        if os.environ.get("CI") or compiling.compiler():
            pytest.fail("the CPU kernels are not compiled: python -m qemu_swalp.kernels.build")
        pytest.skip("no C++ compiler, so no CPU kernels")
