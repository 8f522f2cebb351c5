"""Everything that must hold before a change lands: `python -m tests [pytest arguments]`.

Lint, types, then all tests, among them the conformance vectors on every array library and the
examples of the README. Keras runs on one backend in a process, so the tests of its adapter run once
on each.
"""

from __future__ import annotations

import os
import subprocess
import sys

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


def main() -> int:
    """Run the checks in turn; the exit status of the first that fails, else 0."""
    for command, environment in CHECKS:
        command = command + sys.argv[1:] if command[0] == "pytest" else command
        print("==", *(f"{key}={value}" for key, value in environment.items()), *command, flush=True)
        module = command if command[0].endswith(".py") else ["-m", *command]
        status = subprocess.run(
            [sys.executable, *module], env={**os.environ, **environment}
        ).returncode
        if status:
            print(f"== failed: {' '.join(command)}", flush=True)
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
