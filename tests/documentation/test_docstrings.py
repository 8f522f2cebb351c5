"""The examples of every docstring give what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
import qemu_swalp_torch

import qemu_swalp
from tests.helpers.pages import FLAGS

NEEDS_CUPY = {
    "qemu_swalp.arrays._cupy",
    "qemu_swalp.kernels.backends.cupy",
    "qemu_swalp.kernels.gpu.cupy_devices",
}


def modules() -> list[str]:
    packages = (qemu_swalp, qemu_swalp_torch)
    found = [m.name for p in packages for m in pkgutil.walk_packages(p.__path__, p.__name__ + ".")]
    return sorted(
        {p.__name__ for p in packages} | set(found) - NEEDS_CUPY - {"qemu_swalp.__main__"}
    )


@pytest.mark.parametrize("name", modules())
def test_docstrings(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert failed == 0
