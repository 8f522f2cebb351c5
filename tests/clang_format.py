"""Whether all C++ is formatted as `.clang-format` says; `--fix` formats it.

`python -m tests.clang_format [--fix]`
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("qemu_swalp/kernels/src", "tests/helpers")
SUFFIXES = {".h", ".cpp", ".cu"}


def main() -> int:
    """The exit status of clang-format, which prints what it would change."""
    files = [p for folder in FOLDERS for p in (ROOT / folder).rglob("*") if p.suffix in SUFFIXES]
    how = ["-i"] if "--fix" in sys.argv else ["--dry-run", "--Werror"]
    return subprocess.run(["clang-format", *how, *map(str, sorted(files))]).returncode


if __name__ == "__main__":
    sys.exit(main())
