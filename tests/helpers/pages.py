"""Runs the examples of a page of Markdown: `python -m tests.helpers.pages PAGE`, in a new folder.

Blocks run in order and share their names. A block of `>>>` lines runs as a doctest, one whose first
line is `# NAME.py` becomes that file, any other Python block runs as a program. Of `sh` blocks the
lines that call `qemu-swalp` run; experiments run with `--quick`. Blocks with a title, as in
`python title="QPyTorch"`, are code of other libraries, and do not run.
"""

from __future__ import annotations

import doctest
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from .processes import leave

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
BLOCK = re.compile(r"^```(\S+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Example(NamedTuple):
    """A block of code. `line`: number of the first line of `text` in its page."""

    language: str
    text: str
    line: int


def examples(page: str) -> list[Example]:
    """The blocks of a page that run."""
    return [
        Example(m[1], m[3], page.count("\n", 0, m.start(3)))
        for m in BLOCK.finditer(page)
        if m[1] in ("python", "sh") and not m[2].strip()
    ]


def run(path: Path) -> None:
    """Run all examples of a page in the current folder. AssertionError if one fails."""
    page = sys.modules["page"] = ModuleType("page")
    names = vars(page)
    sys.path.insert(0, ".")
    for language, text, line in examples(path.read_text(encoding="utf-8")):
        file = re.match(r"# (\w+\.py)\n", text)
        if language == "sh":
            run_commands(text)
        elif ">>>" in text:
            test = doctest.DocTestParser().get_doctest(text, {}, path.name, str(path), line)
            test.globs = names
            failed = doctest.DocTestRunner(optionflags=FLAGS).run(test, clear_globs=False).failed
            assert failed == 0, f"{path}, line {line}"
        elif file:
            Path(file[1]).write_text(text)
        else:
            exec(compile("\n" * line + text, str(path), "exec"), names)


def run_commands(text: str) -> None:
    """Run the lines of a block that call the command line. AssertionError if one fails."""
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] != ["qemu-swalp"]:
            continue
        quick = ["--quick"] if words[1:2] == ["reproduce"] else []
        command = [sys.executable, "-m", "qemu_swalp", *words[1:], *quick]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, line + "\n" + done.stdout + done.stderr


if __name__ == "__main__":
    run(Path(sys.argv[1]))
    leave()
