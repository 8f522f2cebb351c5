"""Every array library gives NumPy's bits: deterministic and stochastic, element and block formats,
the user's own.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import qemu_swalp as q
from qemu_swalp import kernels
from qemu_swalp.rounding import DETERMINISTIC
from tests.helpers.backends import Backend, same_bits


@dataclasses.dataclass(frozen=True)
class Tapered(q.BinadeFormat, family="tapered_backend_test"):
    fraction: int

    @property
    def max(self) -> float:
        return 2.0 ** (2 * self.fraction)

    def quantum(self, binade, xp):  # type: ignore[no-untyped-def]
        kept = xp.where(binade < 0, 1, self.fraction + 0 * binade) - xp.abs(binade) // 2
        return xp.maximum(binade - xp.minimum(xp.maximum(kept, 0), 5), -2 * self.fraction)


FORMATS = [
    "e4m3fn",
    "e5m2",
    "e4m3fnuz",
    "e2m1fn",
    "e8m0fnu",
    "fixed<8,6>",
    "fixed<8,6,symmetric>",
    "fixed<6,2,unsigned>",
    "float<4,3,subnormals=false>",
    "float<4,2,bias=20>",
    "codebook<-3,0.1,0.5,0.7,40>",
    "codebook<-1,1>",
    "p3109_k5p1se",
    "p3109_k6p3ue",
    "posit<6,1>",
    "logarithmic<5,1>",
    "nf4",
    "bfp8",
    "bfp<6,axis=0>",
    "bfp<4,axis=1,size=7>",
    "block<e4m3fn,axis=(0,1)>",
    "tapered_backend_test<4>",
]


ROUNDINGS = (*DETERMINISTIC, "stochastic", "stochastic_b<9>", "stochastic_c<31>")


def sample(dtype: str) -> np.ndarray:
    """Random bits (all binades, subnormals, NaN), ordinary numbers, edges; 40×50."""
    rng = np.random.default_rng(7)
    bits = rng.integers(0, 2**32, 900, dtype=np.uint64).astype(np.uint32).view(np.float32)
    edges = np.float32(
        [
            0,
            -0.0,
            np.inf,
            -np.inf,
            np.nan,
            448,
            464,
            465,
            57344,
            61440,
            2**-9,
            2**-10,
            3 * 2**-11,
            1.5,
            2.5,
            1e-45,
            -1e-45,
            2**-126,
            2**-127,
            -(2**-149),
            0.1,
            0.3,
            0.6,
            20.05,
        ]
    )
    ordinary = rng.standard_normal(2000 - 900 - len(edges)) * 2.0 ** rng.integers(
        -12, 10, 2000 - 900 - len(edges)
    )
    x = np.concatenate([bits, edges, ordinary.astype(np.float32)]).reshape(40, 50)
    if dtype == "float64":
        with np.errstate(invalid="ignore"):
            wide = x.astype(np.float64)
        wide = wide * (1 + rng.integers(-4, 5, x.shape) * 2.0**-50)
        wide[-1, :4] = [5e-324, -1e-310, 1e300, 1 + 2.0**-52]
        return wide
    with np.errstate(over="ignore", invalid="ignore"):
        return x.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


WORDS = np.random.default_rng(8).integers(0, 2**32, (40, 50), dtype=np.uint64).astype(np.uint32)
WORDS[0, :4] = [0, 0xFFFFFFFF, 0x80000000, 0x7FFFFFFF]


@pytest.mark.parametrize("format", FORMATS)
def test_same_bits(backend: Backend, format: str) -> None:
    for dtype in backend.share(backend.dtypes, FORMATS.index(format)):
        x = sample(dtype)
        try:
            expected = [q.quantize(x, format, rounding, random=WORDS) for rounding in ROUNDINGS]
        except TypeError:  # SRC-1: this dtype does not hold the format
            with pytest.raises(TypeError, match="cannot represent the values"):
                backend.quantize(x, format)
            continue
        for rounding, a, b in zip(
            ROUNDINGS, backend.quantize_all(x, format, ROUNDINGS, WORDS), expected, strict=True
        ):
            assert same_bits(a, b).all(), (dtype, rounding)


@pytest.mark.parametrize("offset", [0, 5])
def test_same_random_bits(backend: Backend, offset: int) -> None:
    x = np.random.default_rng(1).standard_normal((17, 33)).astype(np.float32)
    for stream in (0, q.stream_id("gradient", 12)):
        random = q.RandomBits(2**40 + 3, stream, 2**31 + 5, offset)
        for format in ("fixed<8,4>", "bfp<8,axis=0>"):
            expected = q.quantize(x, format, "stochastic", random=random)
            assert same_bits(
                backend.quantize(x, format, "stochastic", random=random), expected
            ).all()


@pytest.mark.parametrize(
    "format",
    [
        "e4m3fn",
        "e5m2",
        "e8m0fnu",
        "fixed<8,6>",
        "codebook<3,-1,0.5>",
        "bfp<8,axis=0>",
        "bfp<8,axis=1,size=7>",
        "tapered_backend_test<4>",
    ],
)
def test_same_codes(backend: Backend, format: str) -> None:
    rng = np.random.default_rng(3)
    x = np.abs(rng.standard_normal((20, 30))).astype(np.float32)
    values = q.quantize(
        x if format == "e8m0fnu" else x * rng.choice(np.float32([-1, 1]), x.shape), format
    )
    codes, expected = backend.encode(values, format), q.encode(values, format)
    for a, b in zip(
        [part for part in codes if part is not None] if isinstance(codes, tuple) else [codes],
        [part for part in expected if part is not None] if isinstance(codes, tuple) else [expected],
        strict=True,
    ):
        assert a.dtype == b.dtype
        assert (a == b).all()
    for dtype in ("float32", "float64"):
        assert same_bits(backend.decode(codes, format, dtype), values.astype(dtype)).all()


def test_shapes(backend: Backend) -> None:
    for shape in ((), (0, 3), (1,), (2, 1, 3)):
        x = np.full(shape, 0.3, np.float32)
        for format in ("e4m3fn", "bfp<8,axis=0>"):
            r = backend.quantize(x, format, "stochastic", random=q.RandomBits(1))
            assert same_bits(r, q.quantize(x, format, "stochastic", random=q.RandomBits(1))).all()


def test_a_traced_step_draws_the_same_bits() -> None:
    """RNG-3 in a graph: the step may be a tensor, so that a compiled training step need not be
    compiled anew.
    """
    import jax
    import tensorflow as tf
    import torch

    x = np.random.default_rng(1).standard_normal(50).astype(np.float32)
    expected = q.quantize(x, "bfp8", "stochastic", random=q.RandomBits(1, 2, 77))

    def step(x, t):  # type: ignore[no-untyped-def]
        return q.quantize(x, "bfp8", "stochastic", random=q.RandomBits(1, 2, t))

    assert (np.asarray(jax.jit(step)(x, jax.numpy.int32(77))) == expected).all()
    assert (
        tf.function(step, autograph=False)(tf.constant(x), tf.constant(77)).numpy() == expected
    ).all()
    assert (step(torch.from_numpy(x), torch.tensor(77)).numpy() == expected).all()


def test_results_stay_with_their_library(backend: Backend) -> None:
    x = backend.array(np.float32([0.3]))
    assert type(q.quantize(x, "e4m3fn")) is type(x)
    assert type(q.encode(q.quantize(x, "e4m3fn"), "e4m3fn")) is type(x)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    "format", ["e4m3fn", "bfp<8,axis=0>", "bfp<4,axis=0,size=3>", "codebook<-1,0.25,2>"]
)
def test_lengths_that_a_tensorflow_graph_leaves_open(format: str, jit: bool) -> None:
    import tensorflow as tf

    def rounded(x: Any, step: Any) -> Any:
        return q.quantize(x, format, "stochastic", random=q.RandomBits(3, 5, step, 2))

    x = np.random.default_rng(0).standard_normal((6, 2, 7)).astype(np.float32)
    graph = tf.function(
        rounded,
        jit_compile=jit,
        autograph=False,
        input_signature=[tf.TensorSpec([None, None, 7], tf.float32), tf.TensorSpec([], tf.int32)],
    )
    assert graph.get_concrete_function().output_shapes.as_list() == [None, None, 7]
    for length in (1, 5, 6, 0):
        assert same_bits(graph(x[:length], 9).numpy(), rounded(x[:length], 9)).all()


def test_errors_in_the_words_of_each_library() -> None:
    import jax
    import tensorflow as tf
    import torch

    with pytest.raises(TypeError, match="out= is not possible: JAX arrays cannot be written"):
        q.quantize(jax.numpy.ones(3), "e4m3fn", out=jax.numpy.ones(3))
    with pytest.raises(
        TypeError, match="out= is not possible: tensorflow arrays cannot be written"
    ):
        q.quantize(tf.ones(3), "e4m3fn", out=tf.ones(3))
    with (
        kernels.disabled(),
        pytest.raises(TypeError, match="needs 64-bit integers, which JAX has only after"),
    ):
        q.quantize(
            jax.numpy.ones(3), "codebook<0.1,1000000.1>", "stochastic", random=q.RandomBits(0)
        )
    with pytest.raises(ValueError, match="the shape must be known while tracing"):
        tf.function(
            lambda x: q.encode(x, "e4m3fn"), input_signature=[tf.TensorSpec([None], tf.float32)]
        )(tf.ones(3))
    with pytest.raises(ValueError, match="the number of dimensions must be known while tracing"):
        tf.function(
            lambda x: q.quantize(x, "bfp8"), input_signature=[tf.TensorSpec(None, tf.float32)]
        )(tf.ones(3))
    with pytest.raises(TypeError, match=r"out must be a torch array like x, got numpy\.ndarray"):
        q.quantize(torch.ones(3), "e4m3fn", out=np.ones(3, np.float32))


def test_torch_out_and_grad() -> None:
    import torch

    x = torch.tensor([0.3, 1.3], requires_grad=True)
    version = x._version
    assert not q.quantize(x, "e4m3fn").requires_grad
    with pytest.raises(ValueError, match="out must not require a gradient while gradients are"):
        q.quantize(x, "e4m3fn", out=x)
    with torch.no_grad():
        assert q.quantize(x, "e4m3fn", out=x) is x
    assert x.tolist() == [0.3125, 1.25]
    assert x._version > version
    channels_last = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    expected = q.quantize(
        channels_last.contiguous().numpy(), "bfp<8,axis=0>", "stochastic", random=q.RandomBits(1)
    )
    assert (
        q.quantize(channels_last, "bfp<8,axis=0>", "stochastic", random=q.RandomBits(1)).numpy()
        == expected
    ).all()
