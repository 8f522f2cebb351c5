"""A file of codes, for the tests that damage it or read it back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.storage.states import written


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path / "m.safetensors")
