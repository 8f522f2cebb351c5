"""Programs of JAX and TensorFlow call the kernels, eager and compiled: the bits of the vectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import qemu_swalp as q
from qemu_swalp.arrays.dtypes import SOURCE_DTYPES
from qemu_swalp.kernels import stored_call
from tests.conformance import spec
from tests.conformance.cases import Case, assert_bits
from tests.conformance.test_block_vectors import scaled_arrays
from tests.conformance.test_vectors import check, round_cases, stochastic_cases
from tests.helpers.backends import WITH_KERNELS, Backend, dtype_name, same_bits
from tests.helpers.samples import array, formats


@pytest.fixture(params=WITH_KERNELS, ids=lambda made: made.name, scope="module")
def library(request: pytest.FixtureRequest) -> Backend:
    made: Backend = request.param()
    return made


@pytest.fixture
def every_call(library: Backend) -> Iterator[None]:
    """The test fails if the library did without the kernels."""
    before = stored_call.calls()
    yield
    assert stored_call.calls() > before


@pytest.mark.usefixtures("every_call")
class TestVectors:
    """A sample: a stride has no divisor in common with the numbers of modes and of formats."""

    def test_rounding(self, library: Backend) -> None:
        names = spec.round_names()
        cases = [case for name in names for case in round_cases(spec.read_round(name))]
        variants = list(round_cases(spec.read_policies("round_variants.txt")))
        check(library, [*cases[::29], *variants[::101]])

    def test_policies(self, library: Backend) -> None:
        check(library, list(round_cases(spec.read_policies("policies.txt")))[::43])

    def test_stochastic_rounding(self, library: Backend) -> None:
        names = sorted({row.format for row in spec.read_stochastic()})
        cases = [case for name in names for case in stochastic_cases(name)]
        check(library, cases[::101])

    def test_scaled_blocks(self, library: Backend) -> None:
        for row in spec.read_scaled()[::101]:
            x, words, expected = scaled_arrays(row)
            got = library.quantize(x, row.format, row.rounding, words=words, overflow=row.policy)
            case = Case(row.format, row.rounding, row.policy, x, words, expected)
            assert_bits(case, row.dtype, x, got, expected)

    def test_blocks(self, library: Backend) -> None:
        for row in spec.read_blocks()[::211]:
            words = None if row.words is None else np.array(row.words, np.uint32).reshape(row.shape)
            x, expected = (
                np.array(part, np.float64).reshape(row.shape) for part in (row.input, row.output)
            )
            got = library.quantize(x, row.format, row.rounding, words=words, overflow=row.policy)
            case = Case(row.format, row.rounding, row.policy, x, words, expected)
            assert_bits(case, "float64", x, got, expected)

    def test_given_scales(self, library: Backend) -> None:
        """BLK-16: scales and zero points of the caller, one for all blocks or one for each."""
        for row, scales, points in spec.read_scaled_given()[::17]:
            shape = row.scale_shape if len(scales) > 1 else ()
            given = [np.array(scales, np.float32).reshape(shape)]
            given += [np.array(points, np.int32).reshape(shape)] if points else []
            x, words, expected = scaled_arrays(row)
            got = with_scales(library, row.format, x, given, words, row.rounding, row.policy)
            case = Case(row.format, row.rounding, row.policy, x, words, expected)
            assert_bits(case, row.dtype, x, got, expected)


def with_scales(
    library: Backend,
    format: str,
    x: np.ndarray,
    given: list[np.ndarray],
    words: np.ndarray | None = None,
    rounding: str = "nearest_even",
    policy: Any = None,
) -> np.ndarray:
    """x rounded in a program whose arguments are scales, and perhaps zero points and words."""

    def call(a: Any, *others: Any) -> Any:
        scales, *points = others[: len(given)]
        return q.quantize(
            a,
            format,
            rounding,
            random=others[-1] if words is not None else None,
            overflow=policy,
            scales=scales,
            zero_points=points[0] if points else None,
        )

    drawn = [] if words is None else [words.astype(np.uint32)]
    result: np.ndarray = library._run(call, dtype_name(x), x, *given, *drawn)
    return result


GIVEN = {
    "int<8,axis=0>": ((6,), 20),
    "int<4,zero_point,axis=-1,size=5>": ((6, 4), 5),
    "block<e4m3fn,axis=-1,size=16,scale=bf16>": ((6, 2), 4),
    "block<nf4,axis=0,scale=float<8,23>>": ((6,), 20),
    "mxfp4": ((6, 1), 20),
    "bfp<8,axis=1>": ((20,), 6),
    "int<8>": ((), 120),
}
"""Shape of the scales of 6 × 20 elements, and how many the second block has."""


@pytest.mark.usefixtures("every_call")
def test_given_scales_of_every_dtype(library: Backend) -> None:
    """The bits of NumPy's kernels; subnormal scales are numbers. What is no scale, where a traced
    graph does not know it, makes its block NaN.
    """
    rng = np.random.default_rng(0)
    sample = array("float32", (48, 419)).reshape(-1)[-6 * 20 :].reshape(6, 20)
    traced = any(how in library.name for how in ("function", "xla", "jit"))
    for turn, dtype in enumerate(("float32", "float16", "bfloat16", "float64")):
        kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
        x = sample.astype(np.float64 if dtype == "float64" else np.float32)
        for format in list(GIVEN)[turn :: 1 if turn == 0 and traced else 3]:
            shape, block = GIVEN[format]
            scales = np.ldexp(1.0, rng.integers(-12, 3, shape)).astype(kind)
            if not q.parse(format).powers:
                scales = (scales * rng.uniform(1, 2, shape)).astype(kind)
                if shape and dtype in ("bfloat16", "float16"):
                    scales.reshape(-1)[0] = ml_dtypes.finfo(kind).smallest_subnormal
            points = [rng.integers(0, 16, shape)] if "zero_point" in format else []
            options = {"zero_points": points[0]} if points else {}
            expected = q.quantize(x, format, scales=scales.astype(x.dtype), **options)
            given = [scales, *(each.astype(np.int32) for each in points)]
            assert same_bits(with_scales(library, format, x, given), expected).all(), format
            if shape and traced:
                scales.reshape(-1)[1] = (np.nan, np.inf, 0, -1)[rng.integers(4)]
                got = with_scales(library, format, x, given)
                spoiled = ~same_bits(got, expected)
                assert np.isnan(got[spoiled]).all()
                assert 1 < spoiled.sum() <= block


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_dtype(library: Backend, dtype: str) -> None:
    """The bits of NumPy's kernels, from one program for all formats."""
    x = array(dtype)
    random = q.RandomBits(2**40 + 3, q.stream_id("weight", 5), 2**31 + 7, offset=6)

    def supported(format: str) -> bool:
        target, source = q.Quantizer(format, "stochastic").target, SOURCE_DTYPES[dtype]
        try:
            q.quantize(x, format)
        except TypeError:
            return False
        return stored_call.stored_call(source, target, x.ndim, "counters") is not None

    chosen = [format for format in formats()[::5] if supported(format)]
    before = stored_call.calls()
    for rounding in ("nearest_even", "stochastic"):
        got = library._run(
            lambda a, rounding=rounding: [
                q.quantize(a, format, rounding, random=random) for format in chosen
            ],
            dtype_name(x),
            x,
        )
        for format, result in zip(chosen, got, strict=True):
            assert same_bits(result, q.quantize(x, format, rounding, random=random)).all(), format
    assert stored_call.calls() == before + 2 * len(chosen)
