"""Everything that must hold before a change lands: `python -m tests [pytest arguments]`. With
`--fast`, in less than three minutes, what a change at hand is likely to break.

Lint, types, then all tests, among them the conformance vectors on every array library and the
examples of the README. Keras runs on one backend in a process, so the tests of its adapter run once
on each.
"""

from __future__ import annotations

import os
import subprocess
import sys

from tests.fast import beside, changed

KERAS = "tests/adapters/keras"
PYTEST = ["pytest", "-n", "auto", "--dist", "worksteal"]
CHECKS: list[tuple[list[str], dict[str, str]]] = [
    (["ruff", "check", "."], {}),
    (["ruff", "format", "--check", "--quiet", "."], {}),
    (["tests.clang_format"], {}),
    (["mypy"], {}),
    (["spec/generate.py", "--check"], {}),
    ([*PYTEST, "--ignore", KERAS], {}),
    *(([*PYTEST, KERAS], {"KERAS_BACKEND": backend}) for backend in ("tensorflow", "jax", "torch")),
]


FAST_SECONDS = "50"
"""For each of two runs of pytest, those of Keras being one."""


def fast_checks(files: list[str]) -> list[tuple[list[str], dict[str, str]]]:
    """Lint, types, and the tests beside these files, as far as time allows."""
    tests = beside(files)
    keras = [test for test in tests if test.startswith(KERAS)]
    groups = ([test for test in tests if test not in keras], keras)
    pytest = [*PYTEST, "-x", "--seconds", FAST_SECONDS]
    return CHECKS[:4] + [([*pytest, *group], {}) for group in groups if group]


def main() -> int:
    """Run all checks, whatever fails; the exit status of the first that does, else 0."""
    fast = "--fast" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--fast"]
    failed: dict[str, int] = {}
    for command, environment in fast_checks(changed()) if fast else CHECKS:
        command = command + arguments if command[0] == "pytest" else command
        shown = " ".join([*(f"{key}={value}" for key, value in environment.items()), *command])
        print("==", shown, flush=True)
        module = command if command[0].endswith(".py") else ["-m", *command]
        status = subprocess.run(
            [sys.executable, *module], env={**os.environ, **environment}
        ).returncode
        if status:
            failed[shown] = status
    for shown in failed:
        print(f"== failed: {shown}", flush=True)
    return next(iter(failed.values()), 0)


if __name__ == "__main__":
    sys.exit(main())
