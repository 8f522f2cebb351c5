"""The folder spec/ for tests: oracle and generator loaded by path, tables, a reader for each kind
of vector file.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

SPEC = Path(__file__).resolve().parents[2] / "spec"
VECTORS = SPEC / "vectors"


@cache
def _load(name: str) -> Any:
    """A module or package of spec/. It is entered under its own name, so that the generator finds
    the oracle.
    """
    path = SPEC / name / "__init__.py" if (SPEC / name).is_dir() else SPEC / f"{name}.py"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise FileNotFoundError(path)
    module: ModuleType = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    found.loader.exec_module(module)
    return module


def oracle() -> Any:
    """spec/oracle."""
    return _load("oracle")


def generate() -> Any:
    """spec/generate.py."""
    oracle()
    _load("generator")
    return _load("generate")


@cache
def formats() -> dict[str, Any]:
    """The oracle's formats by the names of formats.toml."""
    return dict(oracle().formats())


@cache
def published() -> dict[str, dict[str, Any]]:
    """The tables of published numbers in formats.toml."""
    return dict(oracle().tables()["published"])


# ------------------------------------------------------------------------------------------
# readers


class RoundRow(NamedTuple):
    """One input and what each deterministic mode makes of it, in the order of the oracle's
    DETERMINISTIC.
    """

    format: str
    policy: str | None
    input: float
    results: tuple[float, ...]


class StochasticRow(NamedTuple):
    """One input under several words."""

    format: str
    rounding: str
    input: float
    words: tuple[int, ...]
    results: tuple[float, ...]


class BlockRow(NamedTuple):
    """One array in C order. `policy` is None where the caller names none, `words` where the
    rounding draws none, a code where the element format has none.
    """

    format: str
    rounding: str
    policy: str | None
    shape: tuple[int, ...]
    input: tuple[float, ...]
    words: tuple[int, ...] | None
    output: tuple[float, ...]
    codes: tuple[int | None, ...]
    exponent_shape: tuple[int, ...]
    exponents: tuple[int, ...]


class ScaledRow(NamedTuple):
    """One array in C order, with the scales of its blocks; None as in `BlockRow`."""

    format: str
    dtype: str
    rounding: str
    policy: str | None
    shape: tuple[int, ...]
    input: tuple[float, ...]
    words: tuple[int, ...] | None
    output: tuple[float, ...]
    codes: tuple[int | None, ...]
    scale_shape: tuple[int, ...]
    scales: tuple[int, ...]
    second: tuple[int, ...]
    zero_points: tuple[int, ...]


class ArithmeticRow(NamedTuple):
    """An operation on several operands."""

    operation: str
    dtype: str
    seed: int
    a: tuple[float, ...]
    b: tuple[float, ...]
    output: tuple[float, ...]
    quantizer: str


class SumRow(NamedTuple):
    """One element of a product."""

    dtype: str
    seed: int
    a: tuple[float, ...]
    b: tuple[float, ...]
    output: float
    accumulation: str


class CodeRow(NamedTuple):
    """A code, what it stands for, and what that encodes to."""

    format: str
    code: int
    value: float
    canonical: int


class StringRow(NamedTuple):
    """A name and its string."""

    name: str
    string: str


class PhiloxRow(NamedTuple):
    """A known answer."""

    counter: tuple[int, ...]
    key: tuple[int, ...]
    words: tuple[int, ...]


class StreamRow(NamedTuple):
    """The key of a stream."""

    seed: int
    stream: int
    key: tuple[int, ...]


class RoleRow(NamedTuple):
    """The stream of a tensor in a role."""

    tensor: int
    stream: int
    role: str


class WordRow(NamedTuple):
    """The word of an element."""

    seed: int
    stream: int
    step: int
    element: int
    word: int


def header(path: Path) -> list[str]:
    """The clause ids that a vector file cites in its first line."""
    with path.open() as file:
        return file.readline().removeprefix("# clauses: ").split()


def lines(name: str) -> list[str]:
    """The rows of a vector file, without its header."""
    return [line for line in (VECTORS / name).read_text().splitlines() if not line.startswith("#")]


def numbers(column: str) -> tuple[float, ...]:
    """A column of floats."""
    return tuple(map(float.fromhex, items(column)))


def integers(column: str, base: int = 10) -> tuple[int, ...]:
    """A column of integers."""
    return tuple(int(item, base) for item in items(column))


def items(column: str) -> list[str]:
    """A column's list."""
    return [] if column == "-" else column.split(",")


def chosen(first: str, second: str, choices: str) -> tuple[float, ...]:
    """Columns first, second and choices as results."""
    pair = float.fromhex(first), math.nan if second == "-" else float.fromhex(second)
    return tuple(pair[int(choice)] for choice in choices)


def round_names() -> list[str]:
    """The formats that have a round file of their own."""
    own = (path.stem.removeprefix("round_") for path in sorted(VECTORS.glob("round_*.txt")))
    return [name for name in own if name != "variants"]


@cache
def read_round(name: str) -> list[RoundRow]:
    """round_NAME.txt."""
    columns = (line.split() for line in lines(f"round_{name}.txt"))
    return [RoundRow(name, None, float.fromhex(x), chosen(*pair)) for x, *pair in columns]


@cache
def read_policies(file: str) -> list[RoundRow]:
    """policies.txt and round_variants.txt."""
    columns = (line.split() for line in lines(file))
    return [
        RoundRow(name, policy, float.fromhex(x), chosen(*pair))
        for name, policy, x, *pair in columns
    ]


@cache
def read_stochastic() -> list[StochasticRow]:
    """stochastic.txt."""
    columns = (line.split() for line in lines("stochastic.txt"))
    return [
        StochasticRow(name, rounding, float.fromhex(x), integers(words, 16), chosen(*pair))
        for name, rounding, x, words, *pair in columns
    ]


@cache
def read_blocks() -> list[BlockRow]:
    """blocks.txt."""
    return [block_row(*line.split()) for line in lines("blocks.txt")]


def block_row(
    name: str,
    rounding: str,
    policy: str,
    shape: str,
    x: str,
    words: str,
    out: str,
    codes: str,
    *scales: str,
) -> BlockRow:
    """A row of blocks.txt. A lone `-` among codes is what has none, not an empty list: no array of
    the file is empty.
    """
    return BlockRow(
        name,
        rounding,
        None if policy == "-" else policy,
        integers(shape),
        numbers(x),
        integers(words, 16) or None,
        numbers(out),
        tuple(None if item == "-" else int(item) for item in codes.split(",")),
        integers(scales[0]),
        integers(scales[1]),
    )


@cache
def read_scaled() -> list[ScaledRow]:
    """scaled.txt."""
    return [scaled_row(*line.split()) for line in lines("scaled.txt")]


def read_scaled_tables() -> list[ScaledRow]:
    """scaled_tables.txt."""
    return [scaled_row(*line.split()) for line in lines("scaled_tables.txt")]


def read_scaled_searches() -> list[ScaledRow]:
    """scaled_searches.txt."""
    return [scaled_row(*line.split()) for line in lines("scaled_searches.txt")]


@cache
def read_scaled_ggml() -> list[ScaledRow]:
    """scaled_ggml.txt."""
    return [scaled_row(*line.split()) for line in lines("scaled_ggml.txt")]


@cache
def read_scaled_given() -> list[tuple[ScaledRow, tuple[float, ...], tuple[int, ...]]]:
    """scaled_given.txt: what becomes of an array, and the scales and zero points given."""
    split = (line.split() for line in lines("scaled_given.txt"))
    return [(scaled_row(*row), numbers(given), integers(points)) for *row, given, points in split]


def scaled_row(
    name: str,
    dtype: str,
    rounding: str,
    policy: str,
    shape: str,
    x: str,
    words: str,
    out: str,
    codes: str,
    *scales: str,
) -> ScaledRow:
    """A row of scaled.txt; for a lone `-` among codes see `block_row`."""
    plain = tuple(None if item == "-" else int(item) for item in codes.split(","))
    drawn = integers(words, 16) or None
    return ScaledRow(
        name,
        dtype,
        rounding,
        None if policy == "-" else policy,
        integers(shape),
        numbers(x),
        drawn,
        numbers(out),
        plain,
        *map(integers, scales),
    )


@cache
def read_sums() -> list[SumRow]:
    """sums.txt."""
    columns = (line.split(" ", 5) for line in lines("sums.txt"))
    return [
        SumRow(dtype, int(seed), numbers(a), numbers(b), float.fromhex(out), accumulation)
        for dtype, seed, a, b, out, accumulation in columns
    ]


@cache
def read_arithmetic() -> list[ArithmeticRow]:
    """arithmetic.txt."""
    columns = (line.split() for line in lines("arithmetic.txt"))
    return [
        ArithmeticRow(operation, dtype, int(seed), numbers(a), numbers(b), numbers(out), quantizer)
        for operation, dtype, seed, a, b, out, quantizer in columns
    ]


@cache
def read_codes() -> list[CodeRow]:
    """codes.txt."""
    columns = (line.split() for line in lines("codes.txt"))
    return [
        CodeRow(name, int(code, 16), float.fromhex(x), int(same, 16))
        for name, code, x, same in columns
    ]


@cache
def read_strings() -> list[StringRow]:
    """strings.txt."""
    return [StringRow(*line.split()) for line in lines("strings.txt")]


@cache
def read_philox() -> list[PhiloxRow]:
    """philox.txt."""
    return [
        PhiloxRow(*(integers(column, 16) for column in line.split()))
        for line in lines("philox.txt")
    ]


@cache
def read_streams() -> list[StreamRow]:
    """streams.txt."""
    columns = (line.split() for line in lines("streams.txt"))
    return [StreamRow(int(seed), int(stream), integers(key, 16)) for seed, stream, key in columns]


@cache
def read_roles() -> list[RoleRow]:
    """roles.txt."""
    columns = (line.split(" ", 2) for line in lines("roles.txt"))
    return [RoleRow(int(tensor), int(stream), role) for tensor, stream, role in columns]


@cache
def read_words() -> list[WordRow]:
    """words.txt."""
    columns = (line.split() for line in lines("words.txt"))
    return [WordRow(int(a), int(b), int(c), int(i), int(word, 16)) for a, b, c, i, word in columns]


READERS = {
    **{f"round_{name}.txt": read_round for name in round_names()},
    "round_variants.txt": read_policies,
    "policies.txt": read_policies,
    "stochastic.txt": read_stochastic,
    "blocks.txt": read_blocks,
    "scaled.txt": read_scaled,
    "scaled_tables.txt": read_scaled_tables,
    "scaled_searches.txt": read_scaled_searches,
    "scaled_ggml.txt": read_scaled_ggml,
    "scaled_given.txt": read_scaled_given,
    "sums.txt": read_sums,
    "arithmetic.txt": read_arithmetic,
    "codes.txt": read_codes,
    "strings.txt": read_strings,
    "philox.txt": read_philox,
    "streams.txt": read_streams,
    "roles.txt": read_roles,
    "words.txt": read_words,
}
