"""The source of Python's standard library as bytes: text that every machine has.

The list of modules is fixed. Their text differs between versions of Python, so a result names the
version and the hash of what was read.
"""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..common.report import Row

NAMES = """
    argparse ast base64 bdb bisect calendar cmd code codecs codeop colorsys compileall
    configparser contextlib copy copyreg csv dataclasses difflib dis doctest enum filecmp
    fileinput fnmatch fractions ftplib functools getopt getpass gettext glob graphlib gzip
    hashlib heapq hmac imaplib inspect io ipaddress keyword linecache locale lzma mailbox
    mimetypes netrc numbers opcode operator optparse os pdb pickle pickletools pkgutil platform
    plistlib poplib posixpath pprint profile pstats py_compile pyclbr queue quopri random
    reprlib rlcompleter runpy sched secrets selectors shelve shlex shutil signal smtplib socket
    socketserver ssl stat statistics string stringprep subprocess symtable tabnanny tarfile
    tempfile textwrap threading timeit token tokenize trace traceback tracemalloc turtle types
    typing uuid warnings wave weakref webbrowser zipapp
"""
MODULES = tuple(NAMES.split())
HELD_OUT = MODULES[4::10]
"""Judged by, and never trained on: every tenth."""


@dataclass(frozen=True)
class Corpus:
    """Bytes of all training files, and of all held-out ones, one after another."""

    train: NDArray[np.uint8]
    held_out: NDArray[np.uint8]
    missing: tuple[str, ...]

    def batch(self, seed: int, step: int, windows: int, length: int) -> NDArray[np.int64]:
        """Windows of training bytes (windows, length), which (seed, step) give."""
        starts = np.random.default_rng((seed, step)).integers(
            len(self.train) - length + 1, size=(windows, 1)
        )
        return _taken(self.train, starts, length)

    def windows(self, count: int, length: int) -> NDArray[np.int64]:
        """Windows (count, length), evenly spaced over the held-out bytes."""
        starts = np.linspace(0, len(self.held_out) - length, count).astype(np.int64)[:, None]
        return _taken(self.held_out, starts, length)

    def facts(self) -> Row:
        """What tells whether two results are of the same text."""
        both = (self.train.tobytes(), self.held_out.tobytes())
        return {
            "training_bytes": len(self.train),
            "held_out_bytes": len(self.held_out),
            "sha256": hashlib.sha256(b"\0".join(both)).hexdigest(),
            "missing": list(self.missing),
        }


def _taken(text: NDArray[np.uint8], starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    return np.asarray(text[starts + np.arange(length)], np.int64)


def load(folder: str = "") -> Corpus:
    """The corpus of the Python that runs, or of the standard library in `folder`.

    FileNotFoundError where there is no source, as in some embedded Pythons.
    """
    place = Path(folder or sysconfig.get_path("stdlib"))
    files = {name: _file(place, name) for name in MODULES}
    missing = tuple(name for name, file in files.items() if file is None)
    parts = [
        b"".join(
            file.read_bytes()
            for name, file in files.items()
            if file and (name in HELD_OUT) == held_out
        )
        for held_out in (False, True)
    ]
    if not all(parts):
        raise FileNotFoundError(
            f"{place} holds no source of the standard library, such as {MODULES[0]}.py and"
            f" {HELD_OUT[0]}.py; run by a Python that has it as files"
        )
    train, held_out = (np.frombuffer(part.replace(b"\r\n", b"\n"), np.uint8) for part in parts)
    return Corpus(train, held_out, missing)


def _file(folder: Path, name: str) -> Path | None:
    candidates = (folder / f"{name}.py", folder / name / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)
