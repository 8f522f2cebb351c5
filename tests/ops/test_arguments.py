"""What users pass to the functions on arrays: understood, or refused with a remedy that works."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf
import torch
from jax.experimental.sparse import BCOO

import qemu_swalp as q

MASKED = np.ma.masked_array(np.float32([0.1, 1.3, -500]), mask=[0, 0, 1])
SPARSE = torch.eye(2).to_sparse()
NESTED = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
SPARSE_TF = tf.sparse.from_dense([[1.0, 0.0]])
RAGGED = tf.ragged.constant([[1.0], [1.0, 2.0]])
SLICES = tf.IndexedSlices(tf.ones((1, 2)), tf.constant([1]), tf.constant([2, 2]))
EIGHT_BITS = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("numbers", "format", "expected"),
    [
        ([-431.99999999999994], "e4m3fn", [-416.0]),  # in float32 the middle of -416 and -448
        (16973823, "bf16", 16908288.0),  # in float32 a middle, too
        ([[0.1], [1]], "e4m3fn", [[0.1015625], [1.0]]),
        ([np.float32(0.3), np.int8(1)], "e4m3fn", [0.3125, 1.0]),
        ([], "bfp8", []),
    ],
)
def test_python_numbers_are_float64(numbers: Any, format: str, expected: Any) -> None:
    result = q.quantize(numbers, format)
    assert result.dtype == np.float64
    assert result.tolist() == expected
    assert q.quantize(np.array(numbers, np.float64), format).tolist() == expected


def test_python_numbers_under_float32_steps_are_float32() -> None:
    assert q.quantize([1.0, 6.0], "nvfp4").dtype == np.float32
    assert q.encode([1.0, 6.0], "nvfp4", "nearest_even").codes.tolist() == [2, 7]


def test_a_number_beside_an_array_is_of_its_dtype() -> None:
    for x in (np.float16([1, 2]), np.float32([1, 2]), np.float64([1, 2])):
        assert q.add(x, 1.0, "fp16/nearest_even").dtype == x.dtype
        assert q.add(x, 1, "fp16/nearest_even").tolist() == [2.0, 3.0]
    one: Any = 1
    for x in (np.float16([1, 2]), np.float64([1, 2])):
        assert q.subtract(one, x, "fp16/nearest_even").dtype == x.dtype
    assert q.add(one, 0.5, "fp16/nearest_even").dtype == np.float64


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (True, TypeError, r"got True; convert it, as in float"),
        ([1.0, False], TypeError, r"got False; convert it"),
        ("1.5", TypeError, r"x must be an array, a number, or a list .*, got '1.5'"),
        (["a"], TypeError, r"got 'a'"),
        (b"x", TypeError, r"got b'x'"),
        (1 + 2j, TypeError, r"got \(1\+2j\); round \.real and \.imag apart"),
        ([None], TypeError, r"got None"),
        ([[1.0], [2.0, 3.0]], ValueError, "rows of several lengths"),
        (2**60 + 1, ValueError, "integers that float64 does not represent"),
        (10**400, ValueError, "integers that float64 does not represent"),
        (np.array([1j]), TypeError, "complex128; round its real and imaginary parts"),
        (np.array([1.0, None]), TypeError, "got dtype object; convert it first"),
        (np.array([True]), TypeError, "got dtype bool; convert it first"),
        (np.matrix([[1.0]]), TypeError, r"got numpy\.matrix; .*numpy\.asarray\(x\)"),
        (MASKED, TypeError, r"MaskedArray; .*x\.filled\(0\.0\), or pass x\.data"),
        (SPARSE, TypeError, r"dense torch array, got torch.Tensor; .*x\.to_dense\(\)"),
        (SPARSE.to_sparse_csr(), TypeError, r"x\.to_dense\(\), or round its values"),
        (NESTED, TypeError, r"x\.unbind\(\)"),
        (EIGHT_BITS, TypeError, r"x\.dequantize\(\)"),
        (torch.ones(2, dtype=torch.complex64), TypeError, "real and imaginary parts"),
    ],
)
def test_refused_by_our_words(x: Any, error: type[Exception], message: str) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: q.quantize(x, "mxfp4"),
        lambda: q.encode(x, "mxfp4", "nearest_even"),
        lambda: q.analyze(x, "mxfp4"),
        lambda: q.add(x, x, "bf16/nearest_even"),
        lambda: q.Quantizer("bf16/nearest_even")(x),
    ]
    for call in calls:
        with pytest.raises(error, match=message.replace("x must", "[xa] must")):
            call()


@pytest.mark.parametrize(
    ("x", "remedy"),
    [
        (SPARSE_TF, r"SparseTensor; .* tf\.sparse\.to_dense\(x\), or .* x\.values"),
        (RAGGED, r"RaggedTensor; convert it, as in x\.to_tensor\(\), or .* x\.flat_values"),
        (SLICES, r"IndexedSlices; convert it, as in tf\.convert_to_tensor\(x\), or .* x\.values"),
        (tf.TensorArray(tf.float32, 1), r"TensorArray; convert it, as in x\.stack\(\)"),
        (scipy.sparse.eye(2), r"dia_matrix; convert it, as in x\.toarray\(\)"),
        (BCOO.fromdense(np.eye(2)), r"BCOO; convert it, as in x\.todense\(\)"),
        ({1.0}, r"got builtins\.set; convert it, as in numpy\.asarray\(x\)"),
    ],
)
def test_other_kinds_of_tensors_are_refused_with_what_makes_an_array(x: Any, remedy: str) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: q.quantize(x, "mxfp4"),
        lambda: q.encode(x, "e4m3fn", "nearest_even"),
        lambda: q.decode(x, "e4m3fn"),
        lambda: q.analyze(x, "mxfp4"),
        lambda: q.add(x, x, "bf16/nearest_even"),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=remedy):
            call()


def test_the_conversions_give_arrays() -> None:
    for x in (
        tf.sparse.to_dense(SPARSE_TF),
        RAGGED.to_tensor(),
        tf.convert_to_tensor(SLICES),
        scipy.sparse.eye(2, dtype=np.float32).toarray(),
        BCOO.fromdense(np.eye(2, dtype=np.float32)).todense(),
    ):
        assert np.asarray(q.quantize(x, "e4m3fn")).tolist() == np.asarray(x).tolist()


FORMATS = [
    "e4m3fn",
    "fixed<8,4>",
    "posit8",
    "nf4",
    "bfp<8,axis=0>",
    "mxfp4",
    "nvfp4",
    "int<8,axis=0>",
]


@pytest.mark.parametrize("format", FORMATS)
def test_meta_tensors_give_shapes(format: str) -> None:
    x, like = torch.empty(4, 32, device="meta"), torch.ones(4, 32)
    random = q.RandomBits(1)
    for rounding in ("nearest_even", "stochastic"):
        result = q.quantize(x, format, rounding, random=random)
        assert result.is_meta
        assert (result.shape, result.dtype) == (x.shape, x.dtype)
        out = torch.empty_like(x)
        assert q.quantize(x, format, rounding, random=random, out=out) is out
    codes, expected = (q.encode(each, format, "nearest_even") for each in (x, like))
    for code, wanted in zip(_parts(codes), _parts(expected), strict=True):
        assert code.is_meta
        assert (code.shape, code.dtype) == (wanted.shape, wanted.dtype)
    values = q.decode(codes, format)
    assert values.is_meta
    assert values.shape == x.shape


def _parts(codes: Any) -> list[torch.Tensor]:
    parts = codes if isinstance(codes, q.BlockCodes) else (codes,)
    return [part for part in parts if part is not None]


def test_meta_tensors_are_refused_where_values_are_needed() -> None:
    x, like = torch.empty(4, 32, device="meta"), torch.ones(4, 32)
    needing: list[Callable[[], Any]] = [
        lambda: q.analyze(x, "bf16"),
        lambda: q.analyze_update(x, x, "bf16"),
        lambda: q.pack(x.to(torch.uint8), 4),
    ]
    for call in needing:
        with pytest.raises(TypeError, match=r"has none .*call it on an array that has values"):
            call()
    for a, b in ((x, like), (like, x)):
        with pytest.raises(ValueError, match=r"one of them has none .*torch\.empty_like\(x\)"):
            q.quantize(a, "e4m3fn", out=b)


def test_the_remedies_work() -> None:
    assert q.quantize(MASKED.filled(0.0), "bfp8").tolist() == [0.09375, 1.296875, 0.0]
    assert q.quantize(np.asarray(np.matrix([[1.1]], np.float32)), "e4m3fn").tolist() == [[1.125]]
    assert q.quantize(SPARSE.to_dense(), "e4m3fn").tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert q.quantize(SPARSE.coalesce().values(), "e4m3fn").tolist() == [1.0, 1.0]
    assert [q.quantize(x, "e4m3fn").tolist() for x in NESTED.unbind()] == [[1.0] * 2, [1.0] * 3]
    assert q.quantize(EIGHT_BITS.dequantize(), "e4m3fn").tolist() == [1.0, 1.0]


def test_the_other_byte_order() -> None:
    other = ">" if sys.byteorder == "little" else "<"
    x = np.float32([1.3, 2.7, -0.01])
    swapped = x.astype(f"{other}f4")
    for format in ("e4m3fn", "bfp8", "codebook<-1,0,1>"):
        assert q.quantize(swapped, format).tolist() == q.quantize(x, format).tolist()
    assert q.encode(swapped, "bf16", "nearest_even").tolist() == [16294, 16429, 48164]
    assert q.decode(np.array([16294], f"{other}u2"), "bf16").tolist() == [1.296875]
    total = q.add(swapped, swapped, "bf16/nearest_even")
    assert total.tolist() == q.add(x, x, "bf16/nearest_even").tolist()
    for out in (swapped, np.zeros(3, f"{other}f4")):
        before = out.tolist()
        with pytest.raises(ValueError, match=r"numpy\.empty\(out\.shape, 'float32'\)"):
            q.quantize(swapped, "e4m3fn", out=out)
        assert out.tolist() == before
    words = np.array([1, 2, 3], f"{other}u4")
    with pytest.raises(ValueError, match=r"random\.astype\('uint32'\)"):
        q.quantize(x, "e4m3fn", "stochastic", random=words)
    assert q.quantize(x, "e4m3fn", "stochastic", random=words.astype("uint32")).shape == (3,)


def test_an_empty_parameter_gives_a_new_tensor_without_gradient() -> None:
    x = torch.nn.Parameter(torch.ones(0, 3))
    for format in ("e4m3fn", "bfp8"):
        result = q.quantize(x, format)
        assert result is not x
        assert type(result) is torch.Tensor
        assert not result.requires_grad
        assert result.shape == (0, 3)


def test_out_that_requires_a_gradient() -> None:
    x, out = torch.tensor([1.3]), torch.zeros(1, requires_grad=True)
    with pytest.raises(ValueError, match=r"out must not require a gradient .*torch\.no_grad\(\)"):
        q.quantize(x, "e4m3fn", out=out)
    assert out.tolist() == [0.0]
    q.quantize(x, "e4m3fn", out=out.detach())
    assert out.tolist() == [1.25]
    with torch.no_grad():
        assert q.quantize(torch.tensor([2.7]), "e4m3fn", out=out) is out
    assert out.tolist() == [2.75]


@pytest.mark.parametrize(
    "dtype", [np.float64, np.dtype("float64"), "float64", torch.float64, tf.float64]
)
def test_decode_to_dtype_objects(dtype: Any) -> None:
    assert q.decode(np.uint8([0x38]), "e4m3fn", dtype=dtype).dtype == np.float64
    codes = q.encode([1.0, -6.0], "mxfp4")
    assert q.decode(codes, "mxfp4", dtype=dtype).dtype == np.float64


def test_decode_to_bfloat16_and_to_no_dtype() -> None:
    codes = torch.tensor([0x38], dtype=torch.uint8)
    assert q.decode(codes, "e4m3fn", dtype=torch.bfloat16).dtype == torch.bfloat16
    assert q.decode(codes.numpy(), "e4m3fn", ml_dtypes.bfloat16).dtype == ml_dtypes.bfloat16
    with pytest.raises(TypeError, match=r"expected an array of float16, .*got dtype int8"):
        q.decode(codes, "e4m3fn", dtype=np.int8)


def test_block_codes_of_two_libraries() -> None:
    x = torch.randn(2, 32)
    codes = q.encode(x, "mxfp4", "nearest_even")
    for mixed in (
        q.BlockCodes(codes.codes.numpy(), codes.scales),
        q.BlockCodes(codes.codes, codes.scales.numpy()),
    ):
        with pytest.raises(TypeError, match=r"scales must be a .* array like the codes of the ele"):
            q.decode(mixed, "mxfp4")
    host = q.BlockCodes(codes.codes.numpy(), codes.scales.numpy())
    assert q.decode(host, "mxfp4").tolist() == q.quantize(x, "mxfp4").tolist()


@pytest.mark.parametrize("format", ["bfp8", "bfp<8,axis=0>"])
def test_encode_names_the_block_format_and_its_remedy_works(format: str) -> None:
    x = np.float32([np.nan, 1])
    for rounding in (None, "nearest_even"):
        with pytest.raises(ValueError, match=rf"(?i)^{format} has no code for nan, .*nan_to_num"):
            q.encode(x, format, rounding)
    codes = q.encode(np.nan_to_num(x), format, "nearest_even")
    assert q.decode(codes, format).tolist() == [0.0, 1.0]


def test_autograph_is_silent(tmp_path: Path) -> None:
    script = """
import tensorflow as tf, qemu_swalp as q
@tf.function
def graph(x):
    codes = q.encode(x, "bfp8", "nearest_even")
    rounded = q.quantize(x, "e4m3fn", "stochastic", random=q.RandomBits(1))
    nearest = q.Quantizer("e4m3fn/nearest_even")
    return q.decode(codes, "bfp8"), rounded, nearest(x), q.add(x, x, "bf16/nearest_even"), q.matmul(
        x[None], x[:, None], "bf16/nearest_even"), q.sum(x, "bf16/nearest_even")
print(graph(tf.constant([0.3, 1.1]))[0].shape)
"""
    (tmp_path / "graph.py").write_text(script)  # AutoGraph rewrites what has a source file
    done = subprocess.run(
        [sys.executable, tmp_path / "graph.py"], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "(2,)", done.stderr
    assert "AutoGraph" not in done.stderr
