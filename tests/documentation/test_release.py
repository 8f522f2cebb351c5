"""A release works: wheels install into an empty environment, and run the README's first example."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import qemu_swalp

ROOT = Path(__file__).parents[2]


def call(*command: object, folder: Path, **environment: str) -> str:
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(target: str, source: Path, folder: Path, kernels: str) -> Path:
    """The only file of `python -m hatchling build`."""
    command = (sys.executable, "-m", "hatchling", "build", "-t", target, "-d", folder)
    call(*command, folder=source, QEMU_SWALP_KERNELS=kernels)
    (made,) = folder.iterdir()
    return made


def unpacked(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as content:
        content.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    return source


def check_installed(wheel: Path, folder: Path, *options: str) -> None:
    """Install the wheel and NumPy alone, and run the example outside the repository."""
    venv.create(folder / "environment", with_pip=True)
    python = folder / "environment" / "bin" / "python"
    call(python, "-m", "pip", "install", "--quiet", wheel, folder=folder)
    packages = call(python, "-m", "pip", "list", "--format", "freeze", folder=folder)
    names = {line.partition("==")[0] for line in packages.split()}
    assert names - {"pip", "setuptools"} == {"numpy", "qemu-swalp"}
    printed = call(python, ROOT / "tests" / "installed.py", *options, folder=folder)
    assert str(folder / "environment") in printed


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked."""
    archive = build("sdist", ROOT, tmp_path_factory.mktemp("sdist"), "off")
    return unpacked(archive, tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def pure_wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", source, tmp_path_factory.mktemp("pure"), "off")


def test_the_source_distribution_holds_what_is_needed_to_build_and_test(source: Path) -> None:
    needed = (
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "CITATION.cff",
        "LICENSE",
        "spec",
        "tests",
        "hatch_build.py",
        "pyproject.toml",
        "qemu_swalp/kernels/src/common",
    )
    assert [name for name in needed if not (source / name).exists()] == []


def test_the_wheel_without_kernels(pure_wheel: Path, tmp_path: Path) -> None:
    assert pure_wheel.name.endswith("-py3-none-any.whl")
    check_installed(pure_wheel, tmp_path)


def test_metadata(pure_wheel: Path) -> None:
    with zipfile.ZipFile(pure_wheel) as content:
        (name,) = (n for n in content.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(content.read(name).decode())
        assert not any("library.bin" in n or n.startswith("tests") for n in content.namelist())
    assert metadata["Version"] == qemu_swalp.__version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Project-URL"]
    assert {"docs", "torch", "keras", "test"} <= set(metadata.get_all("Provides-Extra") or ())
    assert "A format of your own" in metadata.get_payload()


def test_the_citation_names_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {qemu_swalp.__version__}\n" in citation


FROM = [
    pytest.param("repository", id="with the library that is there"),
    pytest.param("source", id="compiled anew, for minutes", marks=pytest.mark.exhaustive),
]


@pytest.mark.parametrize("origin", FROM)
def test_the_wheel_with_kernels(origin: str, source: Path, tmp_path: Path) -> None:
    place = ROOT if origin == "repository" else source
    wheel = build("wheel", place, tmp_path / "wheel", "on")
    assert "-py3-none-" in wheel.name
    assert not wheel.name.endswith("any.whl")
    check_installed(wheel, tmp_path, "--kernels")
