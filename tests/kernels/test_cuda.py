"""The kernels for GPUs compile, and give the bits of the array program: here on the CPU, thread
blocks emulated.
"""

from __future__ import annotations

import itertools
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qemu_swalp as q
from qemu_swalp import kernels
from qemu_swalp.kernels import build as compiling
from qemu_swalp.kernels.gpu import launch as cuda
from qemu_swalp.kernels.gpu import matmul as cuda_products
from qemu_swalp.training import SGD, Quantizer
from qemu_swalp.training import multi_tensor as fused
from tests.helpers import emulated, nvrtc, quotients
from tests.helpers.samples import POLICIES, array, bits, blocks_of, formats
from tests.kernels.test_matmul import TOO_MUCH, coarse
from tests.kernels.test_multi_tensor import RECIPES

RANDOM = q.RandomBits(2**40 + 3, q.stream_id("weight", 5), 2**31 + 7, offset=6)
PAIRS = [
    *itertools.product(
        ["Single"],
        [
            "nearest_even",
            "nearest_away",
            "toward_zero",
            "toward_positive",
            "to_odd",
            "toward_negative",
            "stochastic_a",
            "stochastic_b",
            "stochastic_c",
        ],
    ),
    *itertools.product(["Half", "BFloat", "Double"], ["nearest_even", "stochastic_a"]),
    ("Double", "stochastic_c"),
]
"""Carriers and modes that are compiled for the CPU."""
PROGRAMS = [
    cuda.program_of("Single", "nearest_even"),
    cuda.program_of("Single", "stochastic_a"),
    cuda.program_of("Half", "stochastic_b"),
    cuda.program_of("BFloat", "to_odd"),
    cuda.program_of("Double", "stochastic_c"),
    cuda.sgd_program_of("Single", ["stochastic_a", "stochastic_a", "", "stochastic_a"]),
    cuda.sgd_program_of("Double", ["nearest_even", "stochastic_a", "toward_zero", "stochastic_c"]),
]
"""Those for GPUs; every mode's lines are in each."""
FORMATS = (
    "e4m3fn",
    "e5m2",
    "nf4",
    "bfp8",
    "bfp<8,axis=0>",
    "bfp<8,axis=-1>",
    "mxfp4",
    "int8",
    "nvfp4",
    "block<e4m3fn,axis=(0,1),size=13>",
    "int<4,zero_point,axis=-1,size=17>",
    "block<e2m1fn,axis=0,size=32,scale=e8m0fnu>",
)


def by_program(x: np.ndarray, *arguments: Any, **options: Any) -> np.ndarray | None:
    """None where format, dtype, rounding and policy do not go together."""
    try:
        with kernels.disabled():
            return q.quantize(x, *arguments, **options)
    except (TypeError, ValueError):
        return None


def check(
    x: np.ndarray,
    format: str,
    rounding: str,
    random: Any = RANDOM,
    overflow: Any = None,
    out: np.ndarray | None = None,
) -> None:
    expected = by_program(x, format, rounding, random=random, overflow=overflow)
    if expected is not None:
        got = emulated.quantize(x, format, rounding, random, overflow, out)
        assert (bits(got) == bits(expected)).all(), (format, rounding, overflow)


@pytest.mark.parametrize("carrier", ["Half", "BFloat", "Single", "Double"])
@pytest.mark.parametrize("format", [name for name in formats() if name != "p3109_k5p1se"])
def test_every_format(format: str, carrier: str) -> None:
    """Not the format whose ties go by another parity than the kernels': the array program has
    it.
    """
    x = array(
        dict(zip(cuda.SOURCE_DTYPES, ("float16", "bfloat16", "float32", "float64"), strict=True))[
            carrier
        ]
    )
    for rounding in ("nearest_even", "stochastic", "stochastic<8>"):
        check(x, format, rounding)


@pytest.mark.parametrize("format", FORMATS)
def test_every_rounding_and_policy(format: str) -> None:
    x = array("float32")
    for carrier, mode in PAIRS:
        if carrier == "Single":
            for policy in POLICIES:
                check(x, format, mode, overflow=policy)
    check(array("float64"), format, "stochastic_c<31>")


@settings(max_examples=150)
@given(st.data())
def test_every_shape_of_blocks(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=4)))
    format = str(data.draw(blocks_of(len(shape))))
    x = (
        np.random.default_rng(data.draw(st.integers(0, 99)))
        .standard_normal(shape)
        .astype("float32")
    )
    whole = np.zeros(
        (*shape[:-1], shape[-1] + data.draw(st.integers(0, 3))), np.float32
    )  # rows need not touch
    out = whole[..., whole.shape[-1] - shape[-1] :]
    random = q.RandomBits(1, 2, 3, data.draw(st.integers(0, 9)))
    for rounding in ("nearest_even", "stochastic"):
        check(x, format, rounding, random, out=out)
    assert not whole[..., : whole.shape[-1] - shape[-1]].any()


@pytest.mark.parametrize("format", FORMATS)
def test_large_arrays(format: str) -> None:
    """Windows by the dozen, in one pass and in two; in place."""
    for shape in ((3, 70001), (700, 331), (5, 9, 4099), (70000,)):
        x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        if format.startswith("block<e4m3fn,axis=(0,1)") and len(shape) == 1:
            continue
        check(x, format, "stochastic", q.RandomBits(3, 5, 7), out=x.copy())
        expected = by_program(x, format)
        emulated.quantize(x, format, out=x)
        assert (bits(x) == bits(expected)).all()


@pytest.mark.parametrize(
    ("format", "shape", "launched"),
    [
        ("e4m3fn", (300, 300), ["qs_round"]),
        ("nf4", (9,), ["qs_round"]),
        ("mxfp8_e4m3", (300, 320), ["qs_blocks"]),
        ("bfp<8,axis=0>", (300, 4096), ["qs_blocks"]),
        ("bfp8", (200,), ["qs_blocks"]),
        ("bfp8", (300, 300), ["qs_reduce", "qs_blocks"]),
        ("bfp<8,axis=-1>", (4096, 128), ["qs_reduce", "qs_blocks"]),
        ("block<e4m3fn,axis=(0,1),size=128>", (256, 256), ["qs_blocks"]),
        ("nvfp4", (300, 320), ["qs_reduce", "qs_blocks"]),
    ],
)
def test_few_launches(format: str, shape: tuple[int, ...], launched: list[str]) -> None:
    emulated.DEVICE.launched.clear()
    emulated.quantize(np.ones(shape, np.float32), format)
    assert emulated.DEVICE.launched == launched


def test_given_words() -> None:
    x = array("float32")
    words = np.random.default_rng(0).integers(0, 2**32, x.shape, dtype=np.uint32)
    for format in FORMATS:
        check(x, format, "stochastic", words)


def test_quotients_beside_bounds() -> None:
    for dtype, roundings in (("float32", quotients.ROUNDINGS), ("float64", ("stochastic_c",))):
        x, words = quotients.beside_ties(dtype)
        for rounding in roundings:
            check(x, "int<3,axis=0>", rounding, words)
            check(np.abs(x), "int<2,zero_point,axis=0>", rounding, words)
    for name in ("nvfp4", "nvfp4_torchao"):
        for amax in quotients.amaxes(name):
            check(quotients.under_second_scale(amax), name, "nearest_even")


def test_a_step_in_memory() -> None:
    """Launched again, as a graph does, a kernel takes the step that stands there by then."""
    x, step = array("float32"), np.int64([7])
    for now in (7, 2**32 - 1):
        step[0] = now
        got = emulated.quantize(x, "e4m3fn", "stochastic", RANDOM, step_at=step.ctypes.data)
        expected = by_program(
            x, "e4m3fn", "stochastic", random=q.RandomBits(RANDOM.seed, RANDOM.stream, now, 6)
        )
        assert (bits(got) == bits(expected)).all()


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_steps_of_sgd(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every recipe on tensors of many shapes in one launch, hyper-parameters as they come; dtypes
    in turn.
    """
    shapes = [(100, 57), (33, 3, 3, 3), (1,), (700,), (20001,), (40, 5000), (1, 5), (7, 300, 2)]
    if recipe == "rows of 32":
        shapes = [shape for shape in shapes if len(shape) > 1]
    rng = np.random.default_rng(0)
    for dtype, options in (
        ("float32", {}),
        ("float32", {"momentum": 0.9, "dampening": 0.1, "weight_decay": 1e-3}),
        ("float64", {"momentum": 0.7, "nesterov": True, "maximize": True}),
    ):
        optimizer = SGD(0.05, **options, recipe=RECIPES[recipe], seed=3)
        params = {str(shape): (rng.standard_normal(shape) / 4).astype(dtype) for shape in shapes}
        gradients = [
            {name: rng.standard_normal(w.shape).astype(dtype) for name, w in params.items()}
            for _ in range(2)
        ]

        def run(
            optimizer: SGD = optimizer, params: Any = params, gradients: Any = gradients
        ) -> list[np.ndarray]:
            state = optimizer.init(params)
            for gradient in gradients:
                params, state = optimizer.update(params, gradient, state)
            return [
                a for name in params for a in (params[name], *state.slots[name]) if a is not None
            ]

        with kernels.disabled():
            expected = run()
        with monkeypatch.context() as patched:
            patched.setattr(kernels, "route_of", lambda x: emulated.SGD_ROUTE)
            emulated.DEVICE.launched.clear()
            got = run()
            assert emulated.DEVICE.launched == ["qs_sgd", "qs_sgd"]
        assert all((bits(a) == bits(b)).all() for a, b in zip(got, expected, strict=True)), (
            dtype,
            options,
        )


def test_rounding_many_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [
        ("bfp<8,axis=0>", (30, 500)),
        ("bfp8", (77,)),
        ("e4m3fn/stochastic", (3, 5, 7)),
        ("nf4/stochastic", (9,)),
        ("mxfp4", (64, 320)),
        ("bfp<8,axis=0>", (300,)),
        ("block<e4m3fn,axis=(0,1),size=13>", (40, 50)),
    ]
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(np.float32) for _, shape in given]
    quantizers, random = (
        [Quantizer(text) for text, _ in given],
        [q.RandomBits(3, i, 5) for i in range(len(given))],
    )
    with kernels.disabled():
        expected = [
            quantizer(x, r) for quantizer, x, r in zip(quantizers, arrays, random, strict=True)
        ]
    monkeypatch.setattr(kernels, "route_of", lambda x: emulated.SGD_ROUTE)
    emulated.DEVICE.launched.clear()
    assert all(fused.round_in_place(arrays, quantizers, random))
    assert emulated.DEVICE.launched == ["qs_sgd"]
    assert all((bits(a) == bits(b)).all() for a, b in zip(arrays, expected, strict=True))


@given(
    st.integers(1, 10**9),
    st.integers(1, 10**6),
    st.integers(1, 10**6),
    st.integers(1, 10**5),
    st.booleans(),
)
def test_windows_hold_everything(
    columns: int, segment: int, count: int, most_rows: int, whole: bool
) -> None:
    segment = min(segment, columns)
    w = cuda.windows_of(columns, segment, count, most_rows, 4, 8, whole)
    assert w.windows == count * w.row_parts * w.column_parts
    assert (w.row_parts - 1) * w.row_step < most_rows <= w.row_parts * w.row_step
    assert (w.column_parts - 1) * w.column_step < columns <= w.column_parts * w.column_step
    assert -(-w.column_step // segment) < cuda.MOST_SEGMENTS + 1
    if whole:
        assert w.row_step == most_rows
        assert w.column_parts == 1 or w.column_step % segment == 0
    assert w.width & (w.width - 1) == 0
    assert w.width <= cuda.THREADS


@pytest.mark.skipif(sys.platform != "linux", reason="NVRTC is installed on Linux alone")
@pytest.mark.parametrize(
    "program", PROGRAMS, ids=lambda program: "-".join(value for _, value in program.defined)
)
def test_they_compile_for_gpus(program: compiling.CudaProgram) -> None:
    ptx = nvrtc.ptx(program)
    kernels_of = {
        "cuda/quantize.cu": ("qs_round", "qs_reduce", "qs_blocks"),
        "cuda/multi_tensor.cu": ("qs_sgd",),
    }
    assert all(f".entry {name}" in ptx for name in kernels_of[program.source])


@pytest.mark.skipif(sys.platform != "linux", reason="NVRTC is installed on Linux alone")
def test_errors_in_the_source_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    text = PROGRAMS[0].text()
    broken = text.replace("__syncthreads()", "__syncthreads(", 1)
    monkeypatch.setattr(compiling.CudaProgram, "text", lambda self: broken)
    with pytest.raises(RuntimeError, match="error"):
        nvrtc.ptx(PROGRAMS[0])


SUMS = (
    "fp16/nearest_even",
    "float<6,9>/stochastic; chunk=5",
    "fp16/nearest_even; group=2",
    "e5m2/to_odd; product=e5m2/stochastic; chunk=4; total=float<8,20>/stochastic_c<5>",
    "nf4/stochastic; product=posit8/nearest_even",
    "bf16/stochastic_a<14>",
)


@pytest.mark.parametrize("accumulation", SUMS)
def test_products_compile(accumulation: str) -> None:
    assert "qs_multiply" in nvrtc.ptx(
        cuda_products.program_of(q.Accumulation.parse(accumulation).rules)
    )


@pytest.mark.parametrize("accumulation", SUMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products(accumulation: str, dtype: type) -> None:
    """In float32 and in float64, as the operands are; many terms and tiles, batches, special
    numbers.
    """
    rng = np.random.default_rng(0)
    values = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 2.0**-140, 3e38, 2.0**-126], dtype)
    wide = rng.standard_normal((3, 300)).astype(dtype), rng.standard_normal((300, 2)).astype(dtype)
    pairs = [
        wide,
        tuple(q.quantize(x, "e4m3fn") for x in wide),
        (wide[0] * 0, wide[1]),
        np.meshgrid(values, values),
        tuple(coarse(rng, shape, 9).astype(dtype) for shape in ((2, 1, 19, 3), (2, 3, 40))),
    ]
    for a, b in pairs:
        with kernels.disabled():
            expected = q.matmul(a, b, accumulation, random=RANDOM)
        got = emulated.matmul(a, b, accumulation, RANDOM)
        assert ((bits(got) == bits(expected)) | (np.isnan(got) & np.isnan(expected))).all(), a.shape


@settings(max_examples=60)
@given(
    st.sampled_from(SUMS[:1] + SUMS[3:4] + SUMS[5:]), st.integers(0, 2**32 - 1), st.integers(0, 60)
)
def test_products_are_computed_in_float32_where_that_does(
    accumulation: str, seed: int, spread: int
) -> None:
    rng = np.random.default_rng(seed)
    a, b = coarse(rng, (2, 9), spread), coarse(rng, (9, 3), spread)
    with kernels.disabled():
        expected = q.matmul(a, b, accumulation, random=RANDOM)
    got = emulated.matmul(a, b, accumulation, RANDOM)
    assert ((bits(got) == bits(expected)) | (np.isnan(got) & np.isnan(expected))).all()


@pytest.mark.parametrize("accumulation", ["float<8,21>/to_odd", "fp16/toward_zero"])
def test_products_that_float32_does_not_hold(accumulation: str) -> None:
    for a, b in TOO_MUCH:
        x, y = np.full((2, 3), a, np.float32), np.full((3, 2), b, np.float32)
        got, expected = emulated.matmul(x, y, accumulation, RANDOM), q.matmul(x, y, accumulation)
        assert ((bits(got) == bits(expected)) | np.isnan(got) & np.isnan(expected)).all(), (a, b)


def test_products_read_the_step_in_memory() -> None:
    a, b = coarse(np.random.default_rng(0), (4, 9), 3), coarse(np.random.default_rng(1), (9, 4), 3)
    step = np.array([12], np.uint32)
    got = emulated.matmul(a, b, SUMS[1], RANDOM, step.ctypes.data)
    expected = q.matmul(
        a, b, SUMS[1], random=q.RandomBits(RANDOM.seed, RANDOM.stream, 12, RANDOM.offset)
    )
    assert (bits(got) == bits(expected)).all()
