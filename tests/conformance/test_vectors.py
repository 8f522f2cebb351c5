"""The package against spec/vectors/, on every array library and execution mode, bit for bit.

Eager backends run every row on every dtype that holds the format and the row's input (SRC-1).
Compiled ones compile the reference implementation anew for each format, rounding and dtype; they
run every row of the deterministic modes once, in float32 or, where that does not hold the input, in
float64. Of the stochastic roundings each format meets five of the 24 there, and of blocks, sums and
arithmetic every n-th row runs (`BLOCK_STRIDE`, `SUM_STRIDE`: primes, so that every format and
geometry is met; of the latter two on TensorFlow too). `python -m pytest tests/conformance
--every-vector` runs all of them (19 minutes on 2 cores).
"""

from __future__ import annotations

import bisect
import dataclasses
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import cache
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

import qemu_swalp as q
from qemu_swalp.arrays.dtypes import source_dtype
from tests.conformance import spec
from tests.helpers.backends import Backend, same_bits

DTYPES: dict[str, Any] = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float32": np.float32,
    "float64": np.float64,
}
COMPILED = ("tensorflow-function", "tensorflow-xla", "jax-jit")
BLOCK_STRIDE = {
    "jax": 5,
    "tensorflow": 5,
    "tensorflow-function": 23,
    "tensorflow-xla": 23,
    "jax-jit": 23,
}
SUM_STRIDE = {
    "jax": 37,
    "jax-jit": 149,
    "tensorflow": 11,
    "tensorflow-function": 53,
    "tensorflow-xla": 149,
}
MODES = spec.oracle().DETERMINISTIC
STRINGS = {row.name: row.string for row in spec.read_strings()}
TESTS = Path(__file__).resolve().parents[1]


class Case(NamedTuple):
    """One call of `quantize` and what it must give, carried in float64."""

    format: str
    rounding: str
    policy: str | None
    input: np.ndarray
    words: np.ndarray | None
    output: np.ndarray


def sampled(backend: Backend) -> bool:
    """Whether the backend runs a sample of what it would have to compile, operation by operation
    too.
    """
    return backend.name in (*COMPILED, "jax") and not backend.every_vector


def string(name: str) -> str:
    """The string of a format that the vectors name."""
    return STRINGS.get(name, name)


def held(x: np.ndarray, dtype: str) -> np.ndarray:
    """Which elements a dtype holds exactly; NaN counts."""
    with np.errstate(over="ignore", invalid="ignore"):
        mask: np.ndarray = (x.astype(DTYPES[dtype]).astype(np.float64) == x) | np.isnan(x)
    return mask


def holders(case: Case) -> list[str]:
    """SRC-1: the dtypes that hold every result of a case."""
    return [dtype for dtype in DTYPES if held(case.output, dtype).all()]


def parts(backend: Backend, case: Case) -> Iterator[tuple[str, np.ndarray]]:
    """(dtype, mask of the rows that run in it)."""
    possible = [dtype for dtype in holders(case) if dtype in backend.dtypes]
    if backend.name not in COMPILED:
        yield from ((dtype, held(case.input, dtype)) for dtype in possible)
        return
    wide = (
        ~held(case.input, "float32") if "float32" in possible else np.ones(case.input.shape, bool)
    )
    yield from (
        (dtype, mask) for dtype, mask in (("float32", ~wide), ("float64", wide)) if mask.any()
    )


def as_dtype(x: np.ndarray, dtype: str) -> np.ndarray:
    """A cast that loses nothing."""
    with np.errstate(invalid="ignore"):
        return x.astype(DTYPES[dtype])


def assert_bits(
    case: Case, dtype: str, x: np.ndarray, got: np.ndarray, expected: np.ndarray
) -> None:
    """Equal bits, or a message with the first rows that differ."""
    same = same_bits(got, expected)
    bad = [
        tuple(float(a.flat[i]).hex() for a in (x, got, expected)) for i in np.flatnonzero(~same)[:4]
    ]
    where = f"{case.format}/{case.rounding} overflow={case.policy} {dtype}"
    assert same.all(), (
        f"{where}: {(~same).sum()} of {same.size} differ; (input, result, oracle): {bad}"
    )


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


# ------------------------------------------------------------------------------------------
# element


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


# ------------------------------------------------------------------------------------------
# blocks


def block_rows(backend: Backend) -> list[tuple[int, spec.BlockRow]]:
    """The rows that a backend runs, numbered."""
    stride = 1 if backend.every_vector else BLOCK_STRIDE.get(backend.name, 1)
    return list(backend.share(list(enumerate(spec.read_blocks()))[::stride], 0))


def block_dtypes(backend: Backend, turn: int, row: spec.BlockRow, needed: list[float]) -> list[str]:
    """The dtypes that hold the needed numbers of a block and its precision (SRC-1)."""
    bits = q.parse(row.format).bits - 1
    possible = [
        dtype
        for dtype in DTYPES
        if dtype in backend.dtypes
        and bits <= source_dtype(dtype).precision
        and held(np.array(needed), dtype).all()
    ]
    return (
        possible[turn % len(possible) :][:1]
        if backend.name in BLOCK_STRIDE and possible
        else possible
    )


def cut(x: np.ndarray, dtype: str) -> np.ndarray:
    """SRC-2: the numbers in a dtype, those that it does not hold cut toward zero."""
    with np.errstate(over="ignore"):
        nearest = as_dtype(x, dtype)
    further = np.abs(nearest.astype(np.float64)) > np.abs(x)
    bits = nearest.view(f"i{nearest.dtype.itemsize}")
    return (bits - further.astype(bits.dtype)).view(nearest.dtype)


def test_blocks(backend: Backend) -> None:
    """BLK-1, BLK-2, BLK-3, BLK-4, BLK-5, RND-8, RND-9, SRC-2, STR-1: every geometry, range and
    rounding.
    """
    for turn, row in block_rows(backend):
        shape, words = (
            row.shape,
            None if row.words is None else np.array(row.words, np.uint32).reshape(row.shape),
        )
        x64, out64 = np.array(row.input).reshape(shape), np.array(row.output).reshape(shape)
        for dtype in block_dtypes(backend, turn, row, list(row.input)):
            x, expected = as_dtype(x64, dtype), cut(out64, dtype)
            got = backend.quantize(x, row.format, row.rounding, words=words, overflow=row.policy)
            case = Case(row.format, row.rounding, row.policy, x, words, expected)
            assert_bits(case, dtype, x, got, expected)


def test_block_codes(backend: Backend) -> None:
    """COD-1, COD-2, COD-4, RND-9: codes and exponents, both ways; what holds a NaN cannot be
    encoded.
    """
    for turn, row in block_rows(backend):
        for dtype in block_dtypes(backend, turn, row, list(row.input + row.output)):
            out = as_dtype(np.array(row.output).reshape(row.shape), dtype)
            if None in row.codes:
                if backend.name not in COMPILED:
                    with pytest.raises(ValueError, match="has no code"):
                        backend.encode(out, row.format)
                continue
            codes = np.array(row.codes, np.uint8).reshape(row.shape)
            exponents = np.array(row.exponents, np.int8).reshape(row.exponent_shape)
            case = Case(row.format, "decode", None, out, None, out)
            assert_bits(
                case,
                dtype,
                out,
                backend.decode(q.BlockCodes(codes, exponents), row.format, dtype),
                out,
            )
            got = backend.encode(out, row.format)
            assert (got.codes.dtype, got.scales.dtype) == (np.uint8, np.int8)
            assert_bits(case, dtype, out, backend.decode(got, row.format, dtype), out)
            if keeps_scale(row):
                assert got.codes.tolist() == codes.tolist(), row
                assert got.scales.tolist() == exponents.tolist(), row
                assert got.scales.shape == exponents.shape


def keeps_scale(row: spec.BlockRow) -> bool:
    """BLK-6: whether no element is the -2^(W-1) that moves the scale of a second pass."""
    word = int(row.format.removeprefix("bfp<")[0])
    return 1 << (word - 1) not in row.codes


SCALED_STRIDE = {
    "tensorflow": 7,
    "jax": 89,
    "tensorflow-function": 61,
    "tensorflow-xla": 41,
    "jax-jit": 41,
}


def scaled_rows(backend: Backend) -> list[spec.ScaledRow]:
    """The rows of scaled.txt, scaled_tables.txt and scaled_searches.txt that a backend runs."""
    stride = 1 if backend.every_vector else SCALED_STRIDE.get(backend.name, 1)
    searches = spec.read_scaled_searches()
    if backend.name in COMPILED:  # nine candidates compile for long
        searches = [row for row in searches if "e8m0fnu" in row.format]
    rows = [*spec.read_scaled()[::stride], *spec.read_scaled_tables()[:: 3 * stride - 2]]
    rows += searches[:: 3 * stride - 2]
    rows += spec.read_scaled_ggml()[:: 2 * stride - 1]
    return [row for row in backend.share(rows, 0) if row.dtype in backend.dtypes]


def scaled_arrays(row: spec.ScaledRow) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Input, words and output of a row of scaled.txt."""
    words = None if row.words is None else np.array(row.words, np.uint32).reshape(row.shape)
    x, expected = (
        as_dtype(np.array(part).reshape(row.shape), row.dtype) for part in (row.input, row.output)
    )
    return x, words, expected


def test_scaled_blocks(backend: Backend) -> None:
    """BLK-1 to BLK-4, BLK-7 to BLK-13, SRC-2, SRC-3: every scale, rule and geometry; infinities
    and NaN under every policy.
    """
    for row in scaled_rows(backend):
        x, words, expected = scaled_arrays(row)
        got = backend.quantize(x, row.format, row.rounding, words=words, overflow=row.policy)
        case = Case(row.format, row.rounding, row.policy, x, words, expected)
        assert_bits(case, row.dtype, x, got, expected)


def test_scaled_codes(backend: Backend) -> None:
    """COD-4, COD-7: codes of elements, scales, the array's scale and zero points; decoded they are
    the result.
    """
    for row in scaled_rows(backend):
        x, words, expected = scaled_arrays(row)
        element = q.parse(row.format).element  # type: ignore[attr-defined]
        if isinstance(element, q.BinadeFormat) and not held(np.array([element.max]), row.dtype):
            continue
        if None in row.codes:
            if backend.name not in COMPILED:
                with pytest.raises(ValueError, match="has no code"):
                    backend.encode(x, row.format, row.rounding, words, row.policy)
            continue
        got = backend.encode(x, row.format, row.rounding, words, row.policy)
        assert got.codes.ravel().tolist() == list(row.codes), row
        assert got.scales.ravel().tolist() == list(row.scales), row
        assert got.scales.shape == row.scale_shape
        for part, codes in ((got.second, row.second), (got.zero_points, row.zero_points)):
            assert ([] if part is None else part.ravel().tolist()) == list(codes), row
        back = backend.decode(got, row.format, row.dtype)
        assert_bits(
            Case(row.format, "decode", None, x, None, expected), row.dtype, x, back, expected
        )


def test_given_scales(backend: Backend) -> None:
    """BLK-16: scales and zero points of the caller, one for all blocks or one for each."""
    sampled = backend.name in SCALED_STRIDE and not backend.every_vector
    for row, given, points in spec.read_scaled_given()[:: 16 if sampled else 1]:
        x, _, expected = scaled_arrays(row)
        shape = row.scale_shape if len(given) > 1 else ()
        numbers = np.array(given, np.float32).reshape(shape)
        zero = {"zero_points": np.array(points, np.int32).reshape(shape)} if points else {}
        got = backend.quantize(x, row.format, row.rounding, scales=numbers, **zero)
        assert_bits(
            Case(row.format, row.rounding, None, x, None, expected), row.dtype, x, got, expected
        )
        if None not in row.codes and backend.name == "numpy":
            codes = q.encode(x, row.format, row.rounding, scales=numbers, **zero)
            assert codes.codes.ravel().tolist() == list(row.codes), row
            assert codes.scales.ravel().tolist() == list(row.scales), row


def test_values_of_powers_have_codes() -> None:
    """COD-1, COD-4, COD-7: values under a power of two tell their scale; under another scale a
    rounding is needed.
    """
    for row in (*spec.read_scaled(), *spec.read_scaled_tables(), *spec.read_scaled_searches()):
        _, _, values = scaled_arrays(row)
        if not q.parse(row.format).tells_scales:  # type: ignore[attr-defined]
            with pytest.raises(ValueError, match="cannot be told from values alone"):
                q.encode(values, row.format)
        elif (
            None not in row.codes and row.dtype == "float32" and max(map(abs, row.input)) < 2.0**120
        ):
            assert same_bits(q.decode(q.encode(values, row.format), row.format), values).all(), row


def test_blocks_twice() -> None:
    """BLK-6: with symmetric elements once is enough; in the paper's range -128 moves the scale."""
    for row in spec.read_blocks():
        x = np.array(row.output).reshape(row.shape)
        if "twos" not in row.format and row.policy is None:
            assert same_bits(q.quantize(x, row.format), x).all(), row
    once = q.quantize(np.array([-128.0, 127.0, 3.0, 5.0]), "bfp<8,range=twos>")
    assert q.parse("bfp8").idempotent
    assert not q.parse("bfp<8,range=twos>").idempotent
    assert once.tolist() == [-128.0, 128.0, 4.0, 4.0]


# ------------------------------------------------------------------------------------------
# codes and strings


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


# ------------------------------------------------------------------------------------------
# sums of products


def test_sums(backend: Backend) -> None:
    """SUM-1 to SUM-5, STR-3."""
    for row in spec.read_sums()[:: 1 if backend.every_vector else SUM_STRIDE.get(backend.name, 1)]:
        a, b = (np.array([x], row.dtype) for x in (row.a, row.b))
        got = backend.matmul(a, b.T, row.accumulation, q.RandomBits(row.seed, 5, 2))
        assert same_bits(got, np.array([[row.output]], row.dtype)).all(), (row, got.item().hex())
        assert str(q.Accumulation.parse(row.accumulation)) == row.accumulation


# ------------------------------------------------------------------------------------------
# arithmetic


def test_arithmetic(backend: Backend) -> None:
    """OPS-1, OPS-2."""
    for row in spec.read_arithmetic()[
        :: 1 if backend.every_vector else SUM_STRIDE.get(backend.name, 1)
    ]:
        operands = [
            np.array(x, row.dtype) for x in (row.a, row.b)[: 1 if row.operation == "sqrt" else 2]
        ]
        got = backend.operate(row.operation, operands, row.quantizer, q.RandomBits(row.seed, 6, 3))
        equal = same_bits(got, np.array(row.output, row.dtype))
        assert equal.all(), (
            row.operation,
            row.quantizer,
            [(x[~equal], got[~equal]) for x in operands],
        )


# ------------------------------------------------------------------------------------------
# random bits


def test_philox() -> None:
    """RNG-1: the known answers."""
    from qemu_swalp.random_bits import philox_words

    for row in spec.read_philox():
        assert philox_words(row.counter, row.key) == row.words  # type: ignore[arg-type]


def test_stream_keys() -> None:
    """RNG-2."""
    from qemu_swalp.random_bits import stream_key

    assert all(stream_key(row.seed, row.stream) == row.key for row in spec.read_streams())


def test_stream_ids() -> None:
    """RNG-4."""
    assert all(q.stream_id(row.role, row.tensor) == row.stream for row in spec.read_roles())


def test_words(backend: Backend) -> None:
    """RNG-3, RND-4: two roundings prove a word R: 1 - R/2^32 goes up, 2^-32 less does not."""
    for (seed, stream, step), group in groupby(spec.read_words(), key=lambda row: row[:3]):
        rows = list(group)
        runs = [rows[:18]] + [
            [row] for row in (rows[18:] if backend.name not in COMPILED else rows[-1:])
        ]
        for run in runs:
            assert [row.element for row in run] == list(
                range(run[0].element, run[0].element + len(run))
            )
            random = q.RandomBits(seed, stream, step, run[0].element)
            up = 1 - np.array([row.word for row in run]) / 2**32
            for x, result in ((up, 1.0), (up - 2.0**-32, 0.0)):
                got = backend.quantize(x, "fixed<8,0>", "stochastic", random=random)
                assert got.tolist() == [result] * len(run), (seed, stream, step, run[0].element)


# ------------------------------------------------------------------------------------------
# coverage


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
    """Each file of vectors/ has a reader, and this file calls every reader."""
    assert {path.name for path in spec.VECTORS.iterdir()} == set(spec.READERS)
    source = Path(__file__).read_text()
    assert all(f"spec.{reader.__name__}(" in source for reader in spec.READERS.values())
    assert all(
        f'read_policies("{name}")' in source for name in ("policies.txt", "round_variants.txt")
    )
