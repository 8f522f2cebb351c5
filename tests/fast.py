"""What `python -m tests --fast` runs: the tests beside the files that a change touches."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ALWAYS = "tests/test_architecture.py"
ELSEWHERE = {
    "qemu_swalp/_typing.py": "tests/ops",
    "qemu_swalp/_util": "tests/cli",
    "qemu_swalp/reference": "tests/ops",
    "qemu_swalp/interop": "tests/adapters/torch/test_ecosystem.py",
    "qemu_swalp": "tests/ops",
    "spec/docs": "tests/documentation",
    "spec": "tests/conformance",
    "README.md": "tests/documentation",
    "CONTRIBUTING.md": "tests/documentation",
}
"""Where a file or folder has no tests of its own name, those that come nearest."""


def changed() -> list[str]:
    """Files that differ from `main`; on `main` itself, those of uncommitted changes or, if there
    are none, of the last commit.
    """
    base = _git("merge-base", "HEAD", "main") or ["HEAD"]
    new = _git("ls-files", "--others", "--exclude-standard")
    return _git("diff", "--name-only", *base) + new or _git("diff", "--name-only", "HEAD~1")


def beside(files: Iterable[str]) -> list[str]:
    """The tests of these files, in their order.

    >>> beside(["qemu_swalp/ops/pack.py", "spec/semantics.md", "LICENSE"])[1:]
    ['tests/ops/test_pack.py', 'tests/conformance']
    >>> beside(["adapters/qemu_swalp_keras/optim/sgd.py", "qemu_swalp/kernels/cpu.py"])[1:]
    ['tests/adapters/keras/optim/test_sgd.py', 'tests/kernels']
    """
    return list(dict.fromkeys([ALWAYS, *(test for file in files if (test := _test_of(file)))]))


def _test_of(file: str) -> str:
    """The most precise test that there is; "" for a file without any."""
    path = Path(file)
    if path.parts[0] == "tests":
        return file if path.name.startswith("test_") and (ROOT / file).exists() else ""
    mirrored = Path("tests", *_without_package(path.parts))
    own = mirrored.with_name(f"test_{mirrored.stem}.py")
    for place in (own, *mirrored.parents):
        if place in (Path("tests"), Path("tests/adapters")):
            break
        if (ROOT / place).exists():
            return str(place)
    near = next((str(p) for p in (path, *path.parents) if str(p) in ELSEWHERE), "")
    return ELSEWHERE.get(near, "")


def _without_package(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Where the tests mirror a file of a package.

    >>> _without_package(("adapters", "qemu_swalp_torch", "optim", "sgd.py"))
    ('adapters', 'torch', 'optim', 'sgd.py')
    """
    if parts[0] == "adapters" and len(parts) > 1:
        return ("adapters", parts[1].removeprefix("qemu_swalp_"), *parts[2:])
    return parts[1:] if parts[0] == "qemu_swalp" else parts


def _git(*command: str) -> list[str]:
    """Its words; none where it fails, as without a branch `main`."""
    return subprocess.run(
        ["git", *command], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
