"""Everything that must hold before a change lands: `python -m tests [pytest arguments]`.

Lint, types, then all tests, among them the conformance vectors on every array library and the examples of the README.
"""

from __future__ import annotations

import subprocess
import sys

CHECKS = {
    "lint": ["ruff", "check", "."],
    "types": ["mypy"],
    "vectors": ["python", "spec/generate.py", "--check"],
    "tests": ["pytest", "-n", "auto", "--dist", "worksteal"],
}


def main() -> int:
    """Run the checks in turn; the exit status of the first that fails, else 0."""
    for name, command in CHECKS.items():
        module = command[1:] if command[0] == "python" else ["-m", *command]
        arguments = sys.argv[1:] if name == "tests" else []
        print(f"== {name}: {' '.join(command + arguments)}", flush=True)
        status = subprocess.run([sys.executable, *module, *arguments]).returncode
        if status:
            print(f"== {name} failed", flush=True)
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
