"""Scales and zero points that are given (clause BLK-16)."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import qemu_swalp as q
from tests.helpers.backends import Backend, dtype_name, same_bits

positive = st.floats(2.0**-40, 2.0**40, width=32)
values = st.floats(-1000, 1000, width=32)


def in_library(backend: Backend, x: np.ndarray, format: str, *given: np.ndarray) -> np.ndarray:
    def call(a, scales, *points):  # type: ignore[no-untyped-def]
        return q.quantize(a, format, scales=scales, zero_points=points[0] if points else None)

    return backend._run(call, dtype_name(x), x, *given)


@settings(max_examples=60)
@given(st.lists(values, min_size=6, max_size=6), positive, st.integers(0, 255))
def test_the_definition(numbers: list[float], scale: float, zero: int) -> None:
    """n is the nearest integer to x/s, clipped with the zero point; the product rounds once."""
    x = np.float32(numbers)
    result = q.quantize(x, "int<8,zero_point>", scales=scale, zero_points=zero)
    codes = q.encode(x, "int<8,zero_point>", "nearest_even", scales=scale, zero_points=zero)
    for value, got, code in zip(numbers, result.tolist(), codes.codes.tolist(), strict=True):
        n = min(max(round(Fraction(value) / Fraction(scale)), -zero), 255 - zero)
        assert got == np.float32(n * scale)
        assert code == n + zero
    assert codes.scales.view(np.float32).tolist() == [scale]
    assert codes.zero_points.tolist() == [zero]


GEOMETRIES = {
    "int<8>": (),
    "int<8,axis=0>": (3,),
    "block<e4m3fn,axis=-1,size=4,scale=float<8,23>>": (3, 2),
    "block<e4m3fn,axis=(0,1),size=2,scale=bf16>": (2, 3),
    "mxfp4": (3, 1),
    "block<nf4,axis=1,scale=float<8,23>>": (6,),
    "bfp<8,axis=0>": (3,),
    "block<posit8,axis=-1,size=3,top=1>": (3, 2),
    "int<4,zero_point,axis=0>": (3,),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_every_geometry_and_library(name: str, backend: Backend) -> None:
    """One scale for all, one for each block, in the library's arrays and in NumPy's, in both
    shapes; each block is what it would be alone.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 6)).astype(np.float32)
    format = q.parse(name)
    shape = GEOMETRIES[name]
    scales = np.float32(2.0 ** rng.integers(-6, 0, shape))
    points = (rng.integers(0, 16, shape).astype(np.int32),) if "zero_point" in name else ()
    keywords = {"zero_points": points[0]} if points else {}
    expected = q.quantize(x, name, scales=scales, **keywords)
    assert same_bits(in_library(backend, x, name, scales, *points), expected).all()
    codes = q.encode(x, name, "nearest_even", scales=scales, **keywords)
    assert same_bits(q.decode(codes, name), expected).all()
    full = codes.scales.shape
    more = {key: part.reshape(full) for key, part in keywords.items()}
    assert same_bits(q.quantize(x, name, scales=scales.reshape(full), **more), expected).all()
    for parts in ((scales.reshape(full), *points), (scales, *more.values())):
        assert same_bits(in_library(backend, x, name, *parts), expected).all()
    if not points:
        single = q.quantize(x, name, scales=0.25)
        everywhere = np.full(full, 0.25, np.float32)
        assert same_bits(q.quantize(x, name, scales=everywhere), single).all()
        one_block = format.replace(axis=None, size=None)
        assert same_bits(q.quantize(x, one_block, scales=0.25), single).all()


def test_what_a_rule_computes_can_be_given() -> None:
    """The scales of `encode` give its result again."""
    x = np.random.default_rng(1).standard_normal((4, 32)).astype(np.float32)
    for name in ("int<8,axis=0>", "int<4,zero_point,axis=-1,size=8>"):
        codes = q.encode(x, name, "nearest_even")
        again = q.quantize(
            x, name, scales=codes.scales.view(np.float32), zero_points=codes.zero_points
        )
        assert same_bits(again, q.quantize(x, name)).all()


def test_random_bits_and_out() -> None:
    x = np.random.default_rng(1).standard_normal((4, 32)).astype(np.float32)
    out = np.empty_like(x)
    bits = q.RandomBits(0)
    r = q.quantize(x, "int<4>", "stochastic", random=bits, scales=0.5, out=out)
    assert r is out
    assert set(np.unique(np.abs(out) % 0.5)) == {0.0}
    assert (out != q.quantize(x, "int<4>", scales=0.5)).any()


def test_float64_and_halves() -> None:
    x = np.random.default_rng(1).standard_normal(64)
    assert (q.quantize(x, "int<8>", scales=np.float64([0.125])[0]) * 8 % 1 == 0).all()
    for dtype in (np.float16, np.float64):
        assert q.quantize(x.astype(dtype), "int<8>", scales=dtype(0.125)).dtype == dtype


def agree(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Where x·(1/s) in float32, which PyTorch computes, rounds to the integer next to x/s, which
    its documentation says.
    """
    with np.errstate(over="ignore"):
        product = np.rint(x * (np.float32(1) / scale))
    return product == np.rint(x.astype(np.float64) / scale.astype(np.float64))


def test_fake_quantize_of_torch() -> None:
    """Bit for bit where PyTorch's product with 1/s rounds as the quotient that it documents."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 512)).astype(np.float32)
    scales = np.float32(rng.uniform(1e-3, 2e-2, 64))
    points = rng.integers(0, 256, 64).astype(np.int32)
    there = torch.fake_quantize_per_channel_affine(
        torch.tensor(x), torch.tensor(scales), torch.tensor(points), 0, 0, 255
    )
    ours = q.quantize(x, "int<8,zero_point,axis=0>", scales=scales, zero_points=points)
    same = agree(x, scales[:, None])
    assert same.mean() > 0.9999
    assert same_bits(ours, there.numpy())[same].all()
    for scale, point in ((0.0078125, 128), (0.013, 7)):
        there = torch.fake_quantize_per_tensor_affine(torch.tensor(x), scale, point, 0, 255)
        ours = q.quantize(x, "int<8,zero_point>", scales=scale, zero_points=point)
        same = agree(x, np.float32(scale))
        assert same_bits(ours, there.numpy())[same].all()
    there = torch.fake_quantize_per_tensor_affine(torch.tensor(x), 0.0078125, 0, -128, 127)
    ours = q.quantize(x, "block<fixed<8,0>,scale=float<8,23>>", scales=0.0078125)
    assert same_bits(ours, there.numpy()).all()


def test_scales_that_a_graph_does_not_know() -> None:
    """Traced: a scale that is none makes its block NaN, and no other."""
    jax = pytest.importorskip("jax")
    x = np.ones((3, 2), np.float32)
    scales = np.float32([0.5, -1.0, np.inf])
    r = np.asarray(jax.jit(lambda a, s: q.quantize(a, "int<8,axis=0>", scales=s))(x, scales))
    assert np.isnan(r).all(1).tolist() == [False, True, True]


@pytest.mark.parametrize("kind", ["int64", "uint64", "uint32"])
def test_zero_points_that_do_not_fit_32_bits(kind: str) -> None:
    """None wraps around to one: an error where it is known, NaN where it is not."""
    torch = pytest.importorskip("torch")
    tf = pytest.importorskip("tensorflow")
    x, far = np.ones((3, 2), np.float32), 2**31 + 3 if kind == "uint32" else 2**32 + 3
    points = np.array([3, far, 2**31 - 1], kind)
    format, scales = "int<8,zero_point,axis=0>", np.float32([0.5, 0.5, 0.5])
    for convert in (np.array, torch.tensor, tf.constant):
        with pytest.raises(ValueError, match=r"zero_points of .* must be from 0 to 255"):
            q.quantize(
                convert(x), format, scales=convert(scales), zero_points=convert(points[:2])[1]
            )
    for kept in (points[:2], points[:2].tolist()):
        with pytest.raises(ValueError, match=rf"must be from 0 to 255, got {far};"):
            q.quantize(x[:2], format, scales=scales[:2], zero_points=kept)

    def traced(a: Any, s: Any, z: Any) -> Any:
        return q.quantize(a, format, scales=s, zero_points=z)

    for compiled in (tf.function(traced), tf.function(traced, jit_compile=True)):
        r = compiled(*map(tf.constant, (x, scales, points))).numpy()
        assert np.isnan(r).all(1).tolist() == [False, True, True]


x23 = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("format", "keywords", "error", "words"),
    [
        ("int<8,axis=0>", {"scales": [1.0]}, ValueError, r"of shape \(2, 1\) or \(2,\): one for"),
        ("mxfp4", {"scales": [1, 2]}, ValueError, r"of shape \(2, 1\): one for each block"),
        ("int<8>", {"scales": -1}, ValueError, "must be positive and finite in float32, got -1"),
        ("int<8>", {"scales": float("nan")}, ValueError, "positive and finite in float32, got nan"),
        ("int<8>", {"scales": 1e39}, ValueError, r"positive and finite in float32, got 1e\+39"),
        ("mxfp4", {"scales": 0.3}, ValueError, r"powers of two from 2\^-127 to 2\^127, got 0.3"),
        ("int<8>", {"scales": "1"}, TypeError, "scales must be floating numbers: one number"),
        ("int<8>", {"scales": [[1], [1, 2]]}, TypeError, "scales must be floating numbers"),
        ("e4m3fn", {"scales": 1}, ValueError, "e4m3fn has no scales, got scales=1; give a block"),
        ("nvfp4", {"scales": 1}, ValueError, "follow from a scale of the whole array"),
        ("int8", {"zero_points": 1}, ValueError, "has no zero points, got zero_points=1"),
        ("int<8,zero_point>", {"scales": 1}, ValueError, "needs zero_points= beside scales="),
        ("int<8,zero_point>", {"zero_points": 1}, ValueError, "needs scales= beside zero_points="),
        (
            "int<8,zero_point>",
            {"scales": 1, "zero_points": -3},
            ValueError,
            "must be from 0 to 255, got -",
        ),
        (
            "int<8,zero_point>",
            {"scales": 1, "zero_points": 2**63 + 5},
            ValueError,
            "must be from 0 to 255, got 9223372036854775813",
        ),
        (
            "int<8,zero_point>",
            {"scales": 1, "zero_points": 2.5},
            TypeError,
            "zero_points must be integer numbers",
        ),
    ],
)
def test_bad_input(format, keywords, error, words) -> None:  # type: ignore[no-untyped-def]
    for call in (q.quantize, q.encode):
        with pytest.raises(error, match=words):
            call(x23, format, "nearest_even", **keywords)


def test_given_scales_need_a_rounding() -> None:
    with pytest.raises(ValueError, match="scales= need a rounding"):
        q.encode(x23, "mxfp4", scales=1.0)


def test_scales_of_every_floating_dtype() -> None:
    """Those that NumPy has by ml_dtypes too, as x may be of them."""
    expected = q.quantize(x23, "int<8,axis=0>", scales=np.float32([0.25, 0.75]))
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float64):
        given = np.array([0.25, 0.75], dtype)
        assert (q.quantize(x23, "int<8,axis=0>", scales=given) == expected).all()
    with pytest.raises(TypeError, match="scales must be floating numbers"):
        q.quantize(x23, "int<8,axis=0>", scales=np.ones(2, ml_dtypes.float8_e4m3fn))


def test_sparse_scales_are_refused() -> None:
    torch = pytest.importorskip("torch")
    x, scales = torch.ones(2, 3), torch.ones(2).to_sparse()
    with pytest.raises(TypeError, match=r"scales must be a dense torch array; .*x\.to_dense\(\)"):
        q.quantize(x, "int<8,axis=0>", scales=scales)
