"""The conformance vectors of codes and strings."""

from __future__ import annotations

import bisect
import dataclasses
from fractions import Fraction
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import pytest

import qemu_swalp as q
from tests.conformance import spec
from tests.conformance.cases import (
    MODES,
    STRINGS,
    Case,
    as_dtype,
    assert_bits,
    holders,
    parts,
    string,
)
from tests.helpers.backends import Backend, same_bits


def code_groups() -> dict[str, list[spec.CodeRow]]:
    """The codes of each format."""
    return {
        name: list(group) for name, group in groupby(spec.read_codes(), key=lambda row: row.format)
    }


@pytest.mark.parametrize("name", code_groups())
def test_codes(backend: Backend, name: str) -> None:
    """FMT-3, FMT-4, FMT-5, FMT-6, FMT-7, COD-1, COD-2: every code to its value and back, NaN to the
    one NaN code.
    """
    rows = code_groups()[name]
    codes, canonical = (
        np.array([getattr(row, key) for row in rows], np.uint8) for key in ("code", "canonical")
    )
    case = Case(name, "codes", None, codes, None, np.array([row.value for row in rows]))
    possible = [dtype for dtype in holders(case) if dtype in backend.dtypes]
    for dtype in backend.share(possible, list(code_groups()).index(name)):
        values = as_dtype(case.output, dtype)
        assert_bits(case, dtype, codes, backend.decode(codes, string(name), dtype), values)
        got = backend.encode(values, string(name))
        assert got.dtype == np.uint8
        assert got.tolist() == canonical.tolist()


@pytest.mark.parametrize("name", code_groups())
def test_what_is_no_value_has_no_code(name: str) -> None:
    """COD-1, RND-9: ValueError beside every value, and for the specials that the format lacks."""
    rows = [row.value for row in code_groups()[name]]
    finite = [value for value in rows if np.isfinite(value)]
    wrong = [np.nextafter(value, np.inf) for value in finite[::5]]
    wrong += [special for special in (np.inf, -np.inf) if special not in rows]
    wrong += [] if any(map(np.isnan, rows)) else [np.nan]
    for x in wrong:
        with pytest.raises(ValueError, match="encode"):
            q.encode(np.array([finite[0], x]), string(name))


@dataclasses.dataclass(frozen=True)
class Uneven(q.BinadeFormat):
    """A format of a user's own: eighths below 1, then 1, 1.5, 2, 4, 8, 12."""

    @property
    def max(self) -> float:
        return 12.0

    def quantum(self, binade: Any, xp: Any) -> Any:
        return xp.where(
            binade < 0, -3, xp.where(binade == 0, -1, xp.minimum(xp.maximum(binade, 1), 2))
        )


class UnevenGrid(spec.oracle().Grid):  # type: ignore[misc]
    """The same for the oracle: points in a row, two of them beyond max, each with its integer n."""

    points = tuple(Fraction(n, 8) for n in (*range(9), 12, 16, 32, 64, 96, 128, 2**1030))
    integers: tuple[int, ...] = (*range(8), 2, 3, 1, 1, 2, 3, 4, 0)
    low, high = Fraction(-12), Fraction(12)
    least, bits = points[1], 5

    def point(self, place: int) -> Fraction:
        return self.points[place]

    def place(self, magnitude: Fraction) -> int:
        return bisect.bisect_right(self.points, magnitude) - 1

    def odd(self, place: int) -> bool:
        return self.integers[place] % 2 == 1

    def code(self, value: Fraction) -> int:
        return self.points.index(abs(value)) + 16 * (value < 0)

    def decode(self, code: int) -> float:
        return float(self.points[code % 16]) * (-1) ** (code // 16)


def test_a_format_of_ones_own(backend: Backend) -> None:
    """FMT-2, COD-3: it rounds by its own steps; its codes are places among the values, the sign
    above them.
    """
    grid, oracle = UnevenGrid(), spec.oracle()
    values = [float(value) for value in grid.points[:14]]
    steps = [(a + b) / 2 for a, b in pairwise([*values, 16.0])]
    anchors = np.array([*values, *steps, 16.0, 2.0**60], np.float32)
    near = [np.nextafter(anchors, end) for end in np.array([0, np.inf], np.float32)]
    x = np.concatenate([anchors, -anchors, *near, *(-beside for beside in near)]).astype(np.float64)
    for mode in MODES:
        expected = np.array([oracle.quantize(v, grid, mode) for v in x.tolist()])
        case = Case("Uneven", mode, None, x, None, expected)
        for dtype, mask in parts(backend, case):
            got = backend.quantize(as_dtype(x[mask], dtype), Uneven(), mode)
            assert_bits(case, dtype, x[mask], got, as_dtype(expected[mask], dtype))
    both = np.array([*values, *(-value for value in values[1:])], np.float32)
    codes = np.array([grid.encode(value) for value in both.tolist()], np.uint8)
    assert backend.encode(both, Uneven()).tolist() == codes.tolist()
    assert same_bits(backend.decode(codes, Uneven(), "float32"), both).all()


@pytest.mark.parametrize("row", spec.read_strings(), ids=lambda row: row.name)
def test_strings(row: spec.StringRow) -> None:
    """STR-1: a string parses to the format that the table of that name builds, and is spelled the
    same again.
    """
    parsed = q.parse(row.string)
    assert parsed.canonical_string() == row.string
    assert q.parse(str(parsed)) == parsed


def test_names() -> None:
    """STR-1: the names of formats.toml, read by the package, stand for the strings that the oracle
    spells.
    """
    known = set(q.names())
    loaded = q.load_formats(spec.SPEC / "formats.toml")
    for name in set(loaded) - known:
        q.unregister(name)
    assert loaded == {name: q.parse(text) for name, text in STRINGS.items()}


def test_rounding_strings() -> None:
    """STR-2, RND-4: 32 bits are the default, `stochastic` is variant a, and every string parses
    back.
    """
    assert (
        q.Rounding.parse("stochastic")
        == q.Rounding.parse("stochastic_a<32>")
        == q.Rounding.parse("stochastic_a")
    )
    for text in {*MODES, *(row.rounding for row in spec.read_stochastic())}:
        assert q.Rounding.parse(str(q.Rounding.parse(text))) == q.Rounding.parse(text)
