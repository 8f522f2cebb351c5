"""The examples of the README and of every docstring run, and give what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
import qemu_swalp_torch

import qemu_swalp

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
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


PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.mark.parametrize("example", PYTHON, ids=lambda e: e.strip().splitlines()[0][:50])
def test_readme_python(example: str, tmp_path: Path) -> None:
    """A block of `>>>` lines runs as a doctest, any other block as a program."""
    if ">>>" in example:
        test = doctest.DocTestParser().get_doctest(example, {}, "README.md", "README.md", 0)
        assert doctest.DocTestRunner(optionflags=FLAGS).run(test).failed == 0
        return
    (tmp_path / "example.py").write_text(example)
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_designing_a_format(tmp_path: Path) -> None:
    """The page's file, commands and `>>>` lines run, in this order, beside `spec`."""
    page = (ROOT / "spec" / "designing-a-format.md").read_text()
    blocks = re.findall(r"```(\w+)\n(.*?)```", page, re.S)
    (tmp_path / "spec").symlink_to(ROOT / "spec")
    session = tmp_path / "session.txt"
    session.write_text(
        "".join(text for language, text in blocks if language == "python" and ">>>" in text)
    )
    for language, text in blocks:
        if language == "python" and ">>>" not in text:
            (tmp_path / text.partition("\n")[0].removeprefix("# ")).write_text(text)
    commands = [line for language, text in blocks if language == "sh" for line in text.splitlines()]
    commands = [
        line.replace("qemu-swalp ", f"{sys.executable} -m qemu_swalp ", 1) for line in commands
    ]
    for command in (
        *commands,
        f"{sys.executable} -m doctest -o NORMALIZE_WHITESPACE -o ELLIPSIS {session.name}",
    ):
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in tmp_path.glob("*.png")} == {"triangular.png", "comparison.png"}


def test_readme_has_the_examples_that_it_promises() -> None:
    text = "\n".join(PYTHON)
    for needed in (
        "Codebook",
        "load_formats",
        "family=",
        "quantize_optimizer",
        "Averager",
        "qemu_swalp.training",
    ):
        assert needed in text


def test_readme_names_the_commands_that_ci_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    for command in ('pip install --editable ".[test]"', "python -m tests"):
        assert command in README
        assert command.removeprefix("pip install ") in ci
