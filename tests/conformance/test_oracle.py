"""The oracle's random bits, its vectors, and what it may not import."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from typing import Any

import pytest

from tests.conformance import spec

oracle = spec.oracle()


def test_philox_known_answers() -> None:
    """RNG-1: the three philox4x32-10 lines of Random123's kat_vectors."""
    rows = spec.read_philox()
    assert len(rows) == 3
    assert all(oracle.philox(row.counter, row.key) == row.words for row in rows)


def test_streams() -> None:
    """RNG-2, RNG-3, RNG-4: layout of counters and keys, spelled out once more."""
    seed, stream = 0x0123456789ABCDEF, 0xFEDCBA9876543210
    key = oracle.philox((0x76543210, 0xFEDCBA98, 0, 0), (0x89ABCDEF, 0x01234567))[:2]
    assert oracle.stream_key(seed, stream) == key
    assert oracle.element_word(seed, stream, 9, 4 * 5 + 3) == oracle.philox((5, 9, *key), key)[3]
    assert oracle.stream_id("123456789", 7) == (0xCBF43926 << 32) | 7  # the check value of CRC-32


def test_vectors_are_what_the_generator_writes() -> None:
    """Regenerating gives identical bytes, file by file."""
    done = subprocess.run(
        [sys.executable, spec.SPEC / "generate.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_check_names_file_and_line(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed digit is found, and its line named."""
    generator = spec.generate()
    monkeypatch.setattr(generator, "VECTORS", tmp_path)
    expected = generator.roles_file().encode()
    (tmp_path / "roles.txt").write_bytes(expected.replace(b"\n1 ", b"\n2 ", 1))
    assert generator.difference("roles.txt", expected).startswith("roles.txt: line 4 is '2 ")
    (tmp_path / "roles.txt").write_bytes(expected)
    assert generator.difference("roles.txt", expected) is None
    assert generator.difference("words.txt", b"") == "words.txt: missing"
    assert generator.check({}) == ["roles.txt: not a file of the generator"]


ORACLE = sorted(
    path.relative_to(spec.SPEC).as_posix() for path in (spec.SPEC / "oracle").glob("*.py")
)
GENERATOR = sorted(
    path.relative_to(spec.SPEC).as_posix() for path in (spec.SPEC / "generator").glob("*.py")
)


@pytest.mark.parametrize(
    ("file", "own"),
    [
        *((file, set()) for file in ORACLE),
        *((file, {"oracle"}) for file in GENERATOR),
        ("generate.py", {"oracle", "generator"}),
    ],
)
def test_the_oracle_stands_alone(file: str, own: set[str]) -> None:
    """spec/ imports the standard library alone: neither qemu_swalp, which it judges, nor NumPy, nor
    a peer.
    """
    tree = ast.parse((spec.SPEC / file).read_text())
    named = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    named |= {
        node.module or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and not node.level
    }
    assert {name.split(".")[0] for name in named} <= sys.stdlib_module_names | own


@pytest.mark.parametrize("file", ORACLE)
def test_the_oracle_computes_no_logarithm(file: str) -> None:
    """RND-1: exponents come from exact arithmetic, never from log2, exp2 or frexp."""
    assert not re.search(r"\b(log\w*|exp2|frexp|ldexp)\s*\(", (spec.SPEC / file).read_text())
