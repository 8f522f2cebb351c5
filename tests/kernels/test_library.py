"""A compiled library is used only if it is of these sources and of these structures."""

from __future__ import annotations

from ctypes import Structure
from functools import cache
from pathlib import Path

import pytest

from qemu_swalp.cli.info import path
from qemu_swalp.kernels import build, cpu, layouts, structs


@pytest.fixture(autouse=True)
def loaded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_loaded", cache(cpu._loaded.__wrapped__))


def test_python_and_the_library_lay_structures_out_alike() -> None:
    library = cpu.library()
    assert library is not None, cpu.refusal()
    assert cpu._layouts(library) == layouts.layouts()
    assert layouts.layouts()["Plan.element"] == structs.Plan.element.offset


def test_another_offset_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = dict(structs.Random._fields_)

    class Random(Structure):
        _fields_ = [(name, fields[name]) for name in ("words", "step_at", "offset", "key", "step")]

    shared = [Random if each is structs.Random else each for each in layouts.SHARED]
    monkeypatch.setattr(layouts, "SHARED", shared)
    assert cpu.library() is None
    reason = "the compiled kernels lay out Random.key at 28, Python at 24"
    assert cpu.refusal() == reason
    assert cpu.instruction_set() is None
    assert reason in path("numpy", generator=False)


def test_a_field_that_only_one_side_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    both = layouts.layouts()
    monkeypatch.setattr(layouts, "layouts", lambda: both | {"Random.extra": 0})
    assert cpu.library() is None
    assert "Random.extra at None, Python at 0" in cpu.refusal()


def test_other_sources_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "digest", lambda: "0123456789abcdef")
    assert cpu.library() is None
    assert cpu.refusal() == "the compiled kernels are of other sources"


def test_what_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cpu, "LIBRARY", tmp_path / "library.bin")
    assert cpu.library() is None
    assert cpu.refusal() == "no compiled kernels"
    (tmp_path / "library.bin").write_bytes(b"no library")
    cpu._loaded.cache_clear()
    assert cpu.library() is None
    assert cpu.refusal().startswith("the compiled kernels cannot be loaded (")


def test_a_library_is_current_if_it_loads_and_is_of_these_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build of the package then compiles nothing anew."""
    assert build.is_current(build.LIBRARY)
    assert not build.is_current(tmp_path / "none.bin")
    (tmp_path / "broken.bin").write_bytes(b"\x7fELF")
    assert not build.is_current(tmp_path / "broken.bin")
    monkeypatch.setattr(build, "digest", lambda: "of other sources")
    assert not build.is_current(build.LIBRARY)
