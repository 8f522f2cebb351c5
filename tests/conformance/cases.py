"""What the tests of spec/vectors/ share; they compare bit for bit, on every array library and
execution mode.

Eager backends run every row on every dtype that holds the format and the row's input (SRC-1).
Compiled ones compile the reference implementation anew for each format, rounding and dtype; they
run the rows of the deterministic modes in float32 or, where that does not hold the input, in
float64. TensorFlow's graphs and its XLA do one half of them each, and so do JAX operation by
operation and its jit (`Backend.half`). Of the stochastic roundings each format meets five of the 24
there. Of blocks, sums and arithmetic they, and TensorFlow, run one row of n (`some`). `python -m
pytest tests/conformance --every-vector` runs all of them.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import ml_dtypes
import numpy as np

from tests.conformance import spec
from tests.helpers.backends import Backend, same_bits

DTYPES: dict[str, Any] = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float32": np.float32,
    "float64": np.float64,
}


COMPILED = ("tensorflow-function", "tensorflow-xla", "jax-jit")


MODES = spec.oracle().DETERMINISTIC


STRINGS = {row.name: row.string for row in spec.read_strings()}


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


RowT = TypeVar("RowT")


def some(
    backend: Backend, rows: Sequence[RowT], strides: Mapping[str, int], kind: Callable[[RowT], str]
) -> list[RowT]:
    """The rows that a backend runs: all, or one of n, of as many kinds as so many rows can be.

    They are drawn, since every n-th row of a table with a period has one rounding. The second way
    of a library (`Backend.half`) begins with the last kind.
    """
    stride = 1 if backend.every_vector else strides.get(backend.name, 1)
    if stride == 1:
        return list(rows)
    kinds = sorted(set(map(kind, rows)))
    random.Random(0).shuffle(kinds)
    if backend.half:
        kinds.reverse()
    seen: Counter[str] = Counter()
    places: list[tuple[int, int, int]] = []
    for number in random.Random(backend.name).sample(range(len(rows)), len(rows)):
        name = kind(rows[number])
        places.append((seen[name], kinds.index(name), number))
        seen[name] += 1
    return [rows[number] for *_, number in sorted(places)[: math.ceil(len(rows) / stride)]]


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
