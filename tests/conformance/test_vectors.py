"""The conformance vectors of element formats, on every array library; what cites which clause."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

import qemu_swalp as q
from tests.conformance import spec
from tests.conformance.cases import (
    COMPILED,
    DTYPES,
    MODES,
    STRINGS,
    Case,
    as_dtype,
    assert_bits,
    held,
    parts,
    sampled,
    string,
)
from tests.helpers.backends import Backend

TESTS = Path(__file__).resolve().parents[1]


def few_lengths(x: np.ndarray) -> np.ndarray:
    """Repeated up to a power of two: JAX compiles every operation anew for each length it meets."""
    return np.resize(x, 1 << max(x.size - 1, 63).bit_length())


def check(backend: Backend, cases: Iterable[Case]) -> None:
    """Every case, on every dtype that it runs in."""
    for case in cases:
        for dtype, mask in parts(backend, case):
            x, expected = (
                as_dtype(few_lengths(array[mask]), dtype) for array in (case.input, case.output)
            )
            words = None if case.words is None else few_lengths(case.words[mask])
            got = backend.quantize(
                x, string(case.format), case.rounding, words=words, overflow=case.policy
            )
            assert_bits(case, dtype, x, got, expected)


def round_cases(rows: Iterable[spec.RoundRow]) -> Iterator[Case]:
    """Rows of the deterministic modes, one case for each format, policy and mode."""
    for (name, policy), group in groupby(rows, key=lambda row: (row.format, row.policy)):
        members = list(group)
        x = np.array([row.input for row in members])
        for place, mode in enumerate(MODES):
            yield Case(
                name, mode, policy, x, None, np.array([row.results[place] for row in members])
            )


@cache
def stochastic_cases(name: str) -> list[Case]:
    """Rows of the stochastic modes of a format, one case for each mode and number of bits."""
    found: dict[str, list[tuple[float, int, float]]] = {}
    for row in spec.read_stochastic():
        if row.format == name:
            triples = (
                (row.input, word, result)
                for word, result in zip(row.words, row.results, strict=True)
            )
            found.setdefault(row.rounding, []).extend(triples)
    return [
        Case(name, rounding, None, *(np.array(column) for column in zip(*triples, strict=True)))
        for rounding, triples in found.items()
    ]


VARIANTS = sorted({row.format for row in spec.read_policies("round_variants.txt")})


STOCHASTIC = sorted({row.format for row in spec.read_stochastic()})


@pytest.mark.parametrize("name", spec.round_names())
def test_rounding(backend: Backend, name: str) -> None:
    """FMT-1 to FMT-9, RND-1 to RND-10: every deterministic mode, to every named format, under its
    own policy.
    """
    check(
        backend,
        backend.share(list(round_cases(spec.read_round(name))), spec.round_names().index(name)),
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_rounding_to_formats_without_a_name(backend: Backend, name: str) -> None:
    """FMT-3 to FMT-9 (FMT-5 above all), RND-3, RND-6, STR-1: the parameters that no named format
    uses.
    """
    cases = list(
        round_cases(row for row in spec.read_policies("round_variants.txt") if row.format == name)
    )
    turn = VARIANTS.index(name)
    check(backend, backend.share(cases[turn % 5 :: 5] if sampled(backend) else cases, turn))


def test_policies(backend: Backend) -> None:
    """FMT-8, FMT-9, RND-7, RND-8: the ends of the range under every other policy."""
    cases = list(round_cases(spec.read_policies("policies.txt")))
    # 13 and the number of modes have no common divisor
    check(backend, backend.share(cases[::13] if sampled(backend) else cases, 0))


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_rounding(backend: Backend, name: str) -> None:
    """RND-2, RND-3, RND-4, STR-2: variants a, b, c with 1 to 32 bits, on both sides of every
    threshold.
    """
    cases = stochastic_cases(name)
    turn = STOCHASTIC.index(name)
    check(backend, backend.share(cases[turn % 5 :: 5] if sampled(backend) else cases, turn))


def test_idempotence(backend: Backend) -> None:
    """RND-11: results quantize to themselves."""
    for turn, name in backend.share(list(enumerate(spec.round_names())), 0):
        rows = spec.read_round(name)
        x = np.array([result for row in rows for result in row.results])
        words = np.arange(x.size, dtype=np.uint32) * np.uint32(0x9E3779B9)
        modes = [*MODES, "stochastic_b<8>"]
        modes = [modes[turn % len(modes)]] if backend.name in (*COMPILED, "jax") else modes
        cases = (
            Case(name, mode, None, x, words if "stochastic" in mode else None, x) for mode in modes
        )
        check(backend, cases)


@pytest.mark.parametrize("name", [*spec.round_names(), *VARIANTS])
def test_dtypes_that_hold_a_format(name: str) -> None:
    """SRC-1: a dtype that holds every value is taken, any other refused by name."""
    rows = spec.read_round(name) if name in STRINGS else spec.read_policies("round_variants.txt")
    results = np.array([r for row in rows if row.format == name for r in row.results])
    for dtype in DTYPES:
        x = np.ones(1, DTYPES[dtype])
        if held(results, dtype).all():
            assert q.quantize(x, string(name)).dtype == x.dtype
        else:
            with pytest.raises(
                TypeError, match=f"{dtype}.*{re.escape(str(q.parse(string(name))))}"
            ):
                q.quantize(x, string(name))


def test_every_clause_is_cited() -> None:
    """Every clause id of semantics.md stands in a test or in the header of a vector file."""
    clauses = set(
        re.findall(
            r"^\*\*([A-Z]{3}-\d+)\*\*", (spec.SPEC / "semantics.md").read_text(), re.MULTILINE
        )
    )
    assert len(clauses) >= 37
    cited = {clause for path in spec.VECTORS.iterdir() for clause in spec.header(path)}
    for path in TESTS.rglob("*.py"):
        cited |= set(re.findall(r"\b[A-Z]{3}-\d+\b", path.read_text()))
    assert clauses - cited == set()


def test_every_vector_file_is_read() -> None:
    """Each file of vectors/ has a reader, and a test beside this one calls every reader."""
    assert {path.name for path in spec.VECTORS.iterdir()} == set(spec.READERS)
    source = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*_vectors.py"))
    source += Path(__file__).read_text()
    assert all(f"spec.{reader.__name__}(" in source for reader in spec.READERS.values())
    assert all(
        f'read_policies("{name}")' in source for name in ("policies.txt", "round_variants.txt")
    )
