"""The conformance vectors of sums, elementary operations and random bits."""

from __future__ import annotations

from itertools import groupby

import numpy as np

import qemu_swalp as q
from tests.conformance import spec
from tests.conformance.cases import COMPILED, some
from tests.helpers.backends import Backend, same_bits

SUM_STRIDE = {
    "jax": 37,
    "jax-jit": 149,
    "tensorflow": 11,
    "tensorflow-function": 53,
    "tensorflow-xla": 149,
}


def test_sums(backend: Backend) -> None:
    """SUM-1 to SUM-5, STR-3."""
    for row in some(backend, spec.read_sums(), SUM_STRIDE, lambda row: row.accumulation):
        a, b = (np.array([x], row.dtype) for x in (row.a, row.b))
        got = backend.matmul(a, b.T, row.accumulation, q.RandomBits(row.seed, 5, 2))
        assert same_bits(got, np.array([[row.output]], row.dtype)).all(), (row, got.item().hex())
        assert str(q.Accumulation.parse(row.accumulation)) == row.accumulation


def test_arithmetic(backend: Backend) -> None:
    """OPS-1, OPS-2."""
    rows = spec.read_arithmetic()
    for row in some(backend, rows, SUM_STRIDE, lambda row: f"{row.operation} {row.quantizer}"):
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
