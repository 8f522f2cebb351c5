"""The conformance vectors of block formats, on every array library."""

from __future__ import annotations

import numpy as np
import pytest

import qemu_swalp as q
from qemu_swalp.arrays.dtypes import source_dtype
from tests.conformance import spec
from tests.conformance.cases import COMPILED, DTYPES, Case, as_dtype, assert_bits, held, some
from tests.helpers.backends import Backend, same_bits

BLOCK_STRIDE = {"tensorflow": 5} | dict.fromkeys(("jax", *COMPILED), 38)
"""With 38 each of the 30 formats gives one row."""


def block_rows(backend: Backend) -> list[tuple[int, spec.BlockRow]]:
    """The rows that a backend runs, numbered."""
    rows = list(enumerate(spec.read_blocks()))
    return some(backend, rows, BLOCK_STRIDE, lambda row: row[1].format)


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
    "jax": 150,
    "tensorflow-function": 150,
    "tensorflow-xla": 100,
    "jax-jit": 100,
}


def scaled_rows(backend: Backend) -> list[spec.ScaledRow]:
    """The rows of scaled.txt, scaled_tables.txt, scaled_searches.txt and scaled_ggml.txt that a
    backend runs.
    """
    searches = spec.read_scaled_searches()
    if backend.name in COMPILED:  # nine candidates compile for long
        searches = [row for row in searches if "e8m0fnu" in row.format]
    rows = [
        *spec.read_scaled(),
        *spec.read_scaled_tables(),
        *searches,
        *spec.read_scaled_ggml(),
    ]
    rows = [row for row in rows if row.dtype in backend.dtypes]
    return some(backend, rows, SCALED_STRIDE, lambda row: f"{row.format} {row.rounding}")


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
    strides = dict.fromkeys(SCALED_STRIDE, 16)
    rows = some(backend, spec.read_scaled_given(), strides, lambda row: row[0].format)
    for row, given, points in rows:
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
