"""Elementary operations: the kernels give what the reference implementation gives, which the tests
of `qemu_swalp.add` and its like hold to the oracle.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st

import qemu_swalp as q
from qemu_swalp import kernels
from qemu_swalp.arrays import namespace_of
from qemu_swalp.kernels import cpu
from qemu_swalp.kernels.strides import operands_of
from qemu_swalp.ops.quantizer import Quantizer
from tests.helpers.backends import same_bits
from tests.helpers.samples import ROUNDINGS, array

FORMATS = ("bf16", "e4m3fn", "e5m2", "float<8,23>", "fixed<8,6>", "posit8", "nf4")
WAYS = ("whole", "a row", "a column", "a number", "transposed", "every other", "reversed")
RANDOM = q.RandomBits(2**40 + 3, q.stream_id("add", 5), 7, offset=6)


def operand(dtype: str, way: str, shift: int) -> np.ndarray:
    """An array that broadcasts to (45, 47): special values among all magnitudes."""
    values = np.roll(array(dtype).reshape(-1), shift)
    ordinary = np.random.default_rng(shift).standard_normal(4 * 45 * 47).astype(dtype)
    x = np.where(np.arange(ordinary.size) % 3, ordinary, np.resize(values, ordinary.size))
    if way == "transposed":
        return x[: 45 * 47].reshape(47, 45).T
    x = x.reshape(2 * 45, 2 * 47)
    whole = x[1::2, 1::2] if way == "every other" else np.ascontiguousarray(x[:45, :47])
    if way == "reversed":
        whole = whole[::-1, ::-1]
    parts = {"a row": whole[:1], "a column": whole[:, :1], "a number": whole[3, 4]}
    return np.asarray(parts.get(way, whole))


def computed(operation: str, operands: list[Any], rule: str) -> Any:
    return getattr(q, operation)(*operands, rule, random=RANDOM)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(cpu.OPERATIONS),
    st.sampled_from(["float16", "bfloat16", "float32", "float64"]),
    st.sampled_from(FORMATS),
    st.sampled_from(ROUNDINGS),
    st.tuples(st.sampled_from(WAYS), st.sampled_from(WAYS)),
    st.integers(0, 10**6),
)
def test_bits(
    operation: str, dtype: str, format: str, rounding: str, ways: tuple[str, str], shift: int
) -> None:
    operands = [operand(dtype, way, shift + i) for i, way in enumerate(ways)]
    operands = operands[:1] if operation == "sqrt" else operands
    rule = f"{format}/{rounding}"
    with kernels.disabled():
        try:
            expected = computed(operation, operands, rule)
        except TypeError:
            assume(False)  # the dtype does not represent the values
    got = computed(operation, operands, rule)
    assert np.shape(got) == np.broadcast_shapes(*(x.shape for x in operands))
    assert same_bits(np.asarray(got), np.asarray(expected)).all()


@pytest.mark.parametrize("instructions", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize("exponent", [0, -40, -61, -101, -126, 110])
def test_results_beside_ties(exponent: int, instructions: str) -> None:
    """Exact results that are ties, or nearer to one than float32 tells; and results, or what they
    are computed of, where float32 has no exact rest.
    """
    rng = np.random.default_rng(exponent % 100)
    ties = (rng.integers(128, 256, 600) + 0.5) * 2.0**-7  # of bf16
    some = (rng.integers(2**23, 2**24, 600) * 2.0**-23).astype(np.float32)
    toward = rng.choice([-np.inf, 0, np.inf], 600)
    scale = 2.0**exponent
    for operation, exact in (
        ("multiply", (some, ties / some)),
        ("divide", (ties * some * scale, some)),
        ("divide", (ties * some * scale, some * scale)),
        ("add", (ties * scale, rng.choice([0, 1e-12, -1e-12, 2.0**-24], 600) * scale)),
        ("subtract", (ties * scale, some * 2.0**-30 * scale)),
        ("sqrt", (ties * ties * scale,)),
    ):
        operands = [np.asarray(x, np.float32) for x in exact]
        if operation == "multiply":
            operands[0] *= np.float32(scale)
        last = operands[-1]
        operands[-1] = np.where(toward == 0, last, np.nextafter(last, toward.astype(np.float32)))
        for rounding in ("nearest_even", "nearest_away", "stochastic", "stochastic_c<17>"):
            with kernels.disabled():
                expected = computed(operation, operands, f"bf16/{rounding}")
            try:
                with cpu.instructions(instructions):
                    got = computed(operation, operands, f"bf16/{rounding}")
            except ValueError as error:
                pytest.skip(str(error))
            assert same_bits(got, expected).all(), (operation, rounding)


FEW = ("bf16", "float<6,9>", "fp16", "e4m3fn", "float<5,6,subnormals=false>", "fixed<12,8>")


@pytest.mark.parametrize("instructions", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize("bits", [3, 8, 10, 11, 12, 13])
def test_operands_of_few_bits(bits: int, instructions: str) -> None:
    """Sums and products that float32 rounds as they are: also of what is far smaller, cancels,
    vanishes or overflows.
    """
    rng = np.random.default_rng(bits)
    a, b = (
        (rng.integers(-(2**bits) + 1, 2**bits, (40, 75)) * 2.0 ** rng.integers(-30, 20, (40, 75)))
        for _ in "ab"
    )
    b = np.where(rng.random(b.shape) < 0.2, -a * (1 + 2.0 ** rng.integers(-bits, 0, b.shape)), b)
    b = np.where(rng.random(b.shape) < 0.1, a * 2.0 ** -rng.integers(8, 30, b.shape), b)
    x, y = a.astype(np.float32), b.astype(np.float32)
    x[:, 3], y[3] = 0.0, [np.inf, np.nan, -0.0, 3e38, 1e-44] * 15
    for operation in ("add", "subtract", "multiply"):
        for rule in (f"{f}/{r}" for f in FEW for r in ("nearest_even", "nearest_away")):
            with kernels.disabled():
                expected = computed(operation, [x, y], rule)
            try:
                with cpu.instructions(instructions):
                    got = computed(operation, [x, y], rule)
            except ValueError as error:
                pytest.skip(str(error))
            assert same_bits(got, expected).all(), (operation, rule)


@pytest.mark.parametrize("instructions", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(instructions: str) -> None:
    try:
        with cpu.instructions(instructions):
            got = [results(dtype) for dtype in ("float32", "float64")]
    except ValueError as error:
        pytest.skip(str(error))
    with kernels.disabled():
        expected = [results(dtype) for dtype in ("float32", "float64")]
    for a, b in zip(got, expected, strict=True):
        assert all(same_bits(x, y).all() for x, y in zip(a, b, strict=True))


def results(dtype: str) -> list[np.ndarray]:
    a, b = operand(dtype, "whole", 11), operand(dtype, "a row", 5)
    return [
        computed(operation, [a] if operation == "sqrt" else [a, b], f"{format}/{rounding}")
        for operation in cpu.OPERATIONS
        for format in ("bf16", "posit8")
        for rounding in ("nearest_even", "toward_negative", "stochastic")
    ]


def test_threads_and_pieces() -> None:
    """More elements than a task has, in rows longer than a piece and shorter."""
    rng, before = np.random.default_rng(0), q.get_num_threads()
    try:
        for shape in ((3, 70_001), (70_001, 3), (250_000,)):
            a = rng.standard_normal(shape).astype(np.float32)
            b = rng.standard_normal(shape[-1:]).astype(np.float32)
            with kernels.disabled():
                expected = computed("divide", [a, b], "bf16/stochastic")
            for threads in (1, 3):
                q.set_num_threads(threads)
                assert same_bits(computed("divide", [a, b], "bf16/stochastic"), expected).all()
    finally:
        q.set_num_threads(before)


@pytest.mark.parametrize("elements", [10, 100_000])
def test_tensors(elements: int) -> None:
    a, b = (torch.randn(elements, generator=torch.manual_seed(i)) for i in range(2))
    for x, y in ((a, b), (a, b[:1]), (a[::2], b[::2]), (a.requires_grad_(), b)):
        got = q.multiply(x, y, "e4m3fn/stochastic", random=RANDOM)
        expected = computed("multiply", [x.detach().numpy(), y.numpy()], "e4m3fn/stochastic")
        assert not got.requires_grad
        assert same_bits(got.numpy(), expected).all()


def test_who_takes_the_kernels() -> None:
    """NumPy arrays and CPU tensors of every source dtype, whatever their strides."""
    target = Quantizer("bf16", "nearest_even").target

    def takes(*operands: Any) -> bool:
        xp, shape = namespace_of(operands[0]), np.broadcast_shapes(*(x.shape for x in operands))
        return kernels.operate(xp, "add", operands, shape, target, None) is not None

    for dtype in (np.float16, np.float32, np.float64):
        x = np.ones((4, 6), dtype)
        unaligned = np.frombuffer(bytes(1 + x.nbytes), np.uint8)[1:].view(dtype).reshape(4, 6)
        for y in (x, x.T.T[::-1], x[:, ::2][:, :1], dtype(2), unaligned):
            assert takes(x, np.asarray(y))
        assert takes(torch.tensor(x), torch.tensor(x)[:1])
    assert takes(np.ones(3, ml_dtypes.bfloat16), np.ones(3, ml_dtypes.bfloat16))
    with kernels.disabled():
        assert not takes(x, x)


def test_layouts_of_operands() -> None:
    """Axes that follow one another in both are one; axes of length 1 are none."""
    layout = operands_of((2, 3, 4, 5), (60, 20, 5, 1), (60, 20, 5, 1))
    assert layout is not None
    assert (layout.axes, layout.lengths[0]) == (1, 120)
    layout = operands_of((2, 3, 1, 5), (15, 5, 5, 1), (0, 1, 0, 0))
    assert layout is not None
    assert (layout.axes, list(layout.lengths[:3])) == (3, [2, 3, 5])
    layout = operands_of((1,), (1,), (0,))
    assert layout is not None
    assert (layout.axes, layout.lengths[0]) == (1, 1)
    assert operands_of((2,) * 9, tuple(range(9)), tuple(range(9))) is None
