"""`python -m tests --fast` finds the tests of every part, and keeps to its time."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

from tests import __main__ as tests_main, fast


def test_doctests() -> None:
    assert doctest.testmod(fast).failed == 0


def test_every_file_of_the_packages_has_tests_beside_it() -> None:
    folders = ("qemu_swalp", "adapters/qemu_swalp_torch", "adapters/qemu_swalp_keras")
    files = [p.relative_to(fast.ROOT) for f in folders for p in (fast.ROOT / f).rglob("*.py")]
    found = {file.as_posix(): fast.beside([file.as_posix()])[1:] for file in files}
    assert [file for file, tests in found.items() if not tests] == []
    assert [t for tests in found.values() for t in tests if not (fast.ROOT / t).exists()] == []


def test_the_tests_of_keras_run_in_a_process_of_their_own() -> None:
    files = ["qemu_swalp/ops/pack.py", "adapters/qemu_swalp_keras/optim/sgd.py"]
    checks = [command for command, _ in tests_main.fast_checks(files)]
    assert [c[0] for c in checks] == ["ruff", "ruff", "tests.clang_format", "mypy", *["pytest"] * 2]
    for command in checks[4:]:
        paths = [word for word in command if word.startswith("tests/")]
        assert len({path.startswith(tests_main.KERAS) for path in paths}) == 1


def test_no_test_starts_when_the_time_is_over(tmp_path: Path) -> None:
    (tmp_path / "test_slow.py").write_text(
        "import time\ndef test_a(): time.sleep(0.3)\ndef test_b(): assert False\n"
    )
    command = ["pytest", "-p", "tests.conftest", "--seconds", "0.2", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", *command, "-p", "no:cacheprovider", "--rootdir", str(tmp_path)],
        cwd=fast.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 passed, 1 skipped" in done.stdout, done.stdout + done.stderr
