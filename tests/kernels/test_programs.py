"""Programs of JAX and TensorFlow call the kernels, eager and compiled: the bits of the vectors."""

from __future__ import annotations

from collections.abc import Iterator

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
