"""The kernels for GPUs quantize to the bits of the reference implementation: here on the CPU, with
thread blocks emulated.
"""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import qemu_swalp as q
from qemu_swalp import kernels
from qemu_swalp.arrays import namespace_of
from qemu_swalp.kernels.gpu import device, quantize
from tests.helpers import emulated, quotients
from tests.helpers.samples import FEW_FORMATS, POLICIES, array, bits, blocks_of, formats

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
"""Source dtypes and modes that are compiled for the CPU."""
NOT_COMPILED = ("p3109_k5p1se", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
"""Ties by another parity, and ggml's rules of scales: left to the reference implementation."""


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


@pytest.mark.parametrize("source", ["Half", "BFloat", "Single", "Double"])
@pytest.mark.parametrize("format", [name for name in formats() if name not in NOT_COMPILED])
def test_every_format(format: str, source: str) -> None:
    x = array(
        dict(zip(device.SOURCE_DTYPES, ("float16", "bfloat16", "float32", "float64"), strict=True))[
            source
        ]
    )
    for rounding in ("nearest_even", "stochastic", "stochastic<8>"):
        check(x, format, rounding)


@pytest.mark.parametrize("format", FEW_FORMATS)
def test_every_rounding_and_policy(format: str) -> None:
    x = array("float32")
    for source, mode in PAIRS:
        if source == "Single":
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


@pytest.mark.parametrize("format", FEW_FORMATS)
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
        ("mxfp8_e4m3", (300, 320), ["qs_groups"]),
        ("mxfp8_e4m3", (300, 315), ["qs_blocks"]),
        ("bfp<8,axis=0>", (300, 4096), ["qs_rows"]),
        ("bfp<8,axis=0>", (300, 4100), ["qs_blocks"]),
        ("bfp<8,axis=0>", (300, 147), ["qs_blocks"]),
        ("bfp8", (200,), ["qs_rows"]),
        ("bfp8", (300, 300), ["qs_reduce", "qs_whole"]),
        ("bfp<8,axis=-1>", (4096, 128), ["qs_reduce", "qs_blocks"]),
        ("block<e4m3fn,axis=(0,1),size=128>", (256, 256), ["qs_blocks"]),
        ("nvfp4", (300, 320), ["qs_reduce", "qs_groups"]),
    ],
)
def test_few_launches(format: str, shape: tuple[int, ...], launched: list[str]) -> None:
    emulated.DEVICE.launched.clear()
    emulated.quantize(np.ones(shape, np.float32), format)
    assert emulated.DEVICE.launched == launched


def test_arrays_that_are_not_aligned_are_not_held() -> None:
    whole = np.random.default_rng(0).standard_normal(64 * 33).astype(np.float32)
    for first, kernel in ((0, "qs_groups"), (1, "qs_blocks"), (4, "qs_groups")):
        emulated.DEVICE.launched.clear()
        x = whole[first : first + 64 * 32]
        check(x, "mxfp4", "nearest_even", out=np.zeros_like(whole)[first : first + 64 * 32])
        check(x, "mxfp4", "nearest_even", out=np.zeros_like(x))
        assert emulated.DEVICE.launched == [kernel, kernel]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    ("format", "shape"),
    [
        ("mxfp8_e4m3", (70, 320)),
        ("mxfp4", (64,)),
        ("bfp<8,axis=-1,size=128>", (33, 640)),
        ("nvfp4", (33, 64)),
        ("nvfp4_torchao", (33, 64)),
        ("int<8,axis=-1,size=64>", (6, 256)),
        ("bfp<8,axis=0>", (11, 4096)),
        ("bfp<6,range=twos,axis=0>", (41, 144)),
        ("int<8,zero_point,axis=0>", (9, 520)),
        ("bfp8", (70, 1100)),
        ("int8", (70, 1100)),
    ],
)
def test_blocks_that_threads_hold(format: str, shape: tuple[int, ...], dtype: str) -> None:
    """Under scales of many powers; some of them zero, some with infinities or NaN."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape) * 2.0 ** rng.integers(
        -9, 9, (shape[0], *(1,) * (len(shape) - 1))
    )
    flat = x.reshape(-1)
    flat[: flat.size // 9] = 0
    flat[:: flat.size // 5], flat[1 :: flat.size // 4] = -0.0, np.inf
    for special in (x, np.where(np.arange(x.size).reshape(shape) == 7, np.nan, x)):
        values = special.astype(dtype if dtype != "bfloat16" else ml_dtypes.bfloat16)
        check(values, format, "nearest_even")
        check(values, format, "stochastic", q.RandomBits(3, 5, 7, offset=4), out=values.copy())


@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
def test_quotients_where_estimates_do_not_do(rounding: str) -> None:
    """Numbers whose quotients are what decides between two neighbours, and some beside."""
    rng, random = np.random.default_rng(0), q.RandomBits(3, 5, 7)
    x = np.empty((40, 256), np.float32)
    words = random.words(namespace_of(x), x.shape, x).astype(np.uint32)
    share = 0.5 if rounding == "nearest_even" else 1 - words / 2.0**32
    scale = rng.uniform(0.5, 2, (40, 1)).astype(np.float32)
    x[:] = (
        (rng.integers(0, 126, x.shape) + share)
        * rng.choice([-1, 1], x.shape)
        * scale.astype(np.float64)
    )
    x[:, 0] = 127 * scale[:, 0]
    for _ in range(4):
        check(x, "int<8,axis=0>", rounding, random)
        x[:, 1:] = np.nextafter(x[:, 1:], np.float32(np.inf))
    check(x, "nvfp4", rounding, random)


def test_given_words() -> None:
    x = array("float32")
    words = np.random.default_rng(0).integers(0, 2**32, x.shape, dtype=np.uint32)
    for format in FEW_FORMATS:
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
    w = quantize.windows_of(columns, segment, count, most_rows, 4, 8, whole)
    assert w.windows == count * w.row_parts * w.column_parts
    assert (w.row_parts - 1) * w.row_step < most_rows <= w.row_parts * w.row_step
    assert (w.column_parts - 1) * w.column_step < columns <= w.column_parts * w.column_step
    assert -(-w.column_step // segment) < quantize.MOST_SEGMENTS + 1
    if whole:
        assert w.row_step == most_rows
        assert w.column_parts == 1 or w.column_step % segment == 0
    assert w.width & (w.width - 1) == 0
    assert w.width <= device.THREADS
