"""Packed codes (clause COD-5) and views of codes as ml_dtypes (clause COD-6)."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, strategies as st

import qemu_swalp as q
from tests.helpers.backends import Backend
from tests.helpers.peers import ML_DTYPES


@given(st.integers(1, 32), st.lists(st.integers(0, 2**32 - 1), max_size=40))
def test_packed_bits_are_where_the_clause_says(width: int, numbers: list[int]) -> None:
    """COD-5: one integer, code i shifted to i·b, in little-endian bytes."""
    codes = np.array([n % 2**width for n in numbers], np.uint32)
    stream = sum(int(code) << (i * width) for i, code in enumerate(codes))
    packed = q.pack(codes, width)
    assert packed.dtype == np.uint8
    assert packed.tobytes() == stream.to_bytes(-(-len(numbers) * width // 8), "little")
    assert q.unpack(packed, width, codes.size).tolist() == codes.tolist()


def test_shapes_dtypes_and_sizes() -> None:
    codes = q.encode(
        q.quantize(np.random.default_rng(0).standard_normal((7, 3, 5)), "posit<5,1>"), "posit<5,1>"
    )
    packed = q.pack(codes, "posit<5,1>")
    assert packed.nbytes == q.packed_bytes(105, "posit<5,1>") == 66
    back = q.unpack(packed, "posit<5,1>", (7, 3, 5))
    assert back.dtype == codes.dtype
    assert (back == codes).all()
    assert (
        q.pack(codes[::2, :, ::-1], 5).tolist()
        == q.pack(np.ascontiguousarray(codes[::2, :, ::-1]), 5).tolist()
    )
    assert q.unpack(q.pack(np.zeros((0, 4), np.uint8), 3), 3, (0, 4)).shape == (0, 4)
    assert q.unpack(q.pack(np.uint8([3]), 2), 2, ()).tolist() == 3


def test_two_codes_of_four_bits_share_a_byte_low_half_first() -> None:
    assert q.pack(np.uint8([0x1, 0xF, 0x5]), "e2m1fn").tolist() == [0xF1, 0x05]


def test_the_parts_of_block_codes() -> None:
    f = q.parse("bfp<6,axis=0>")
    x = q.quantize(np.float32([[1, -3, 0.1], [0.01, 0.02, 0.3]]), f)
    codes, exponents = q.encode(x, f)[:2]
    parts = q.pack(codes, f.element), q.pack(exponents, f.scale.bits)
    assert sum(part.nbytes for part in parts) == 5 + 2
    exponents_back = q.unpack(parts[1], 8, exponents.shape).view(np.int8)
    assert (q.decode(q.BlockCodes(q.unpack(parts[0], 6, x.shape), exponents_back), f) == x).all()


def test_the_bytes_of_block_formats_are_those_of_their_parts() -> None:
    x = np.random.default_rng(0).standard_normal((7, 40)).astype(np.float32)
    for name in (
        "mxfp6_e3m2",
        "nvfp4",
        "int<4,zero_point,axis=-1,size=16>",
        "bfp<5,axis=0,scale_bits=10>",
        "bfp8",
    ):
        f, codes = q.parse(name), q.encode(x, name, "nearest_even")
        widths = {"codes": f.bits, "scales": f.scale.bits, "second": 32, "zero_points": f.bits}
        packed = {
            part: q.pack(array, widths[part])
            for part, array in codes._asdict().items()
            if array is not None
        }
        assert q.packed_bytes(x.shape, name) == sum(stream.nbytes for stream in packed.values())
    assert q.packed_bytes((), "nvfp4") == 1 + 1 + 4
    assert q.packed_bytes((0, 5), "mxfp4") == 0


def test_arrays_of_other_libraries() -> None:
    import jax
    import tensorflow as tf
    import torch

    for array in (
        torch.tensor([1, 2, 3], dtype=torch.uint8),
        tf.constant([1, 2, 3]),
        jax.numpy.arange(1, 4),
    ):
        assert q.pack(array, 4).tolist() == [0x21, 0x03]
    with pytest.raises(
        TypeError,
        match=r"codes must hold values that can be copied to the host, and this torch\.Tens",
    ):
        q.pack(torch.ones(3, dtype=torch.uint8, device="meta"), 4)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: q.pack(np.uint8([16]), 4), ValueError, "at most 4 bits, got 16 to 16"),
        (lambda: q.pack(np.int8([-9]), 4), ValueError, "at most 4 bits, got -9 to -9"),
        (
            lambda: q.pack(np.float32([1]), 4),
            TypeError,
            "must be an integer array, got dtype float32",
        ),
        (lambda: q.pack(np.uint8([1]), 33), ValueError, "must be from 1 to 32, got 33"),
        (lambda: q.pack(np.uint8([1]), "bfp8"), TypeError, "are BlockCodes, as encode gives them"),
        (lambda: q.pack(q.encode([1.0], "mxfp4"), "e2m1fn"), TypeError, "go with a block format"),
        (
            lambda: q.pack(q.encode([1.0], "mxfp4"), "int<4,zero_point>"),
            ValueError,
            "the codes lack zero_points, and int<4,zero_point> has codes, scales, zero_points",
        ),
        (
            lambda: q.pack(q.encode([1.0], "nvfp4", "to_odd"), "mxfp4"),
            ValueError,
            "the codes have second",
        ),
        (lambda: q.pack(q.encode([1.0], "bfp8"), 8), TypeError, "go with a block format"),
        (lambda: q.pack(np.uint8([1]), "e4m3fm"), ValueError, "did you mean 'e4m3fn'"),
        (
            lambda: q.unpack(np.uint8([1, 2]), 4, 5),
            ValueError,
            r"array of shape \(3,\), got uint8 of shape \(2,\)",
        ),
        (lambda: q.unpack(np.uint16([1]), 4, 1), ValueError, "got uint16"),
        (lambda: q.unpack(np.uint8([1]), 4, -1), ValueError, "each length of shape must be from 0"),
        (lambda: q.packed_bytes(1.5, 4), TypeError, "each length of shape must be an integer"),
        (
            lambda: q.packed_bytes(8, "fp8_128x128"),
            ValueError,
            "names axis -2, which an array of 1 dimensions",
        ),
        (
            lambda: q.to_ml_dtypes(np.uint8([1]), "posit8"),
            ValueError,
            "no dtype of ml_dtypes has the layout of posit8",
        ),
        (lambda: q.to_ml_dtypes(np.uint8([1]), "tf32"), ValueError, "no dtype of ml_dtypes"),
        (
            lambda: q.to_ml_dtypes(np.int8([1]), "e5m2"),
            TypeError,
            "NumPy array of uint8, as encode gives, got int8",
        ),
        (lambda: q.to_ml_dtypes([1], "e5m2"), TypeError, "got list"),
        (
            lambda: q.from_ml_dtypes(np.float32([1]), "e5m2"),
            TypeError,
            "of float8_e5m2 to hold e5m2, got float32",
        ),
    ],
)
def test_bad_input(call, error, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("name", [*ML_DTYPES, "p3109_k8p3sf", "p3109_k8p4sf"])
def test_views_share_the_bits(name: str) -> None:
    """COD-6: every code stands for the same there, and nothing is copied."""
    f = q.parse(name)
    codes = np.arange(2**f.bits, dtype=f"uint{8 if f.bits <= 8 else 16}")
    view = q.to_ml_dtypes(codes, name)
    assert np.shares_memory(view, codes)
    with np.errstate(invalid="ignore"):
        theirs, ours = view.astype(np.float64), q.decode(codes, name, "float64")
    assert ((theirs == ours) | (np.isnan(theirs) & np.isnan(ours))).all()
    assert (np.signbit(theirs) == np.signbit(ours))[theirs == 0].all()
    assert (q.from_ml_dtypes(view, name) == codes).all()
    assert (
        q.to_ml_dtypes(codes, f.replace(overflow="saturate")).dtype == view.dtype
    )  # codes know no policy


def test_ml_dtypes_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match="pip install ml_dtypes"):
        q.to_ml_dtypes(np.uint8([1]), "e5m2")
    assert q.to_ml_dtypes(np.uint16([0x3C00]), "fp16").tolist() == [1.0]
    assert ml_dtypes is not None


@pytest.mark.parametrize(
    "name",
    [
        *("mxfp4", "nvfp4", "bfp<8,axis=0>", "bfp<6,axis=0,scale_bits=5>", "int<4,zero_point>"),
        "block<nf4,axis=-1,size=4,scale=float<8,23>>",
    ],
)
def test_block_codes(name: str, backend: Backend) -> None:
    """COD-5: every part by itself, and back; of codes of every library."""
    x = np.random.default_rng(0).standard_normal((3, 37)).astype(np.float32)
    codes = q.encode(x, name, "nearest_even")
    streams = q.pack(codes, name)
    assert sum(part.nbytes for part in streams if part is not None) == q.packed_bytes(x.shape, name)
    back = q.unpack(streams, name, x.shape)
    for part, original in zip(back, codes, strict=True):
        assert (part is None) == (original is None)
        assert part is None or (part.dtype == original.dtype and (part == original).all())
    with backend.context("float32"):
        theirs = q.encode(backend.array(x), name, "nearest_even")
        assert (q.pack(theirs, name).codes == streams.codes).all()
