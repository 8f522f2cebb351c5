"""The examples of the adapter's docstrings give what they say on every backend."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
import qemu_swalp_keras

from tests.helpers.pages import FLAGS

MODULES = ["qemu_swalp_keras"] + [
    m.name for m in pkgutil.walk_packages(qemu_swalp_keras.__path__, "qemu_swalp_keras.")
]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert failed == 0
