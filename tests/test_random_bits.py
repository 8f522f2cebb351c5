"""Random bits (clauses RNG-1 to RNG-4)."""

from __future__ import annotations

import functools
import zlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, strategies as st

import qemu_swalp as q
from qemu_swalp.arrays import namespace_of, numpy_namespace
from qemu_swalp.random_bits import generator_agrees, philox_words, stream_key
from tests.helpers.backends import Backend

ONES = 0xFFFFFFFF
PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (PI[:4], PI[4:], (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ],
)
def test_random123_known_answers(counter, key, expected) -> None:  # type: ignore[no-untyped-def]
    """RNG-1: the vectors published with Random123."""
    assert philox_words(counter, key) == expected


def element_words(count: int, **where: int) -> np.ndarray:
    bits = q.RandomBits(**where)
    xp = numpy_namespace()
    return bits.words(xp, (count,), np.zeros(1, np.float32)).view(np.uint32)


@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, ONES),
    st.integers(0, 2**34 - 40),
)
def test_layout(seed: int, stream: int, step: int, offset: int) -> None:
    """RNG-2, RNG-3: word j of counter block b belongs to element 4b + j."""
    k0, k1 = philox_words((stream & ONES, stream >> 32, 0, 0), (seed & ONES, seed >> 32))[:2]
    assert stream_key(seed, stream) == (k0, k1)
    expected = [
        philox_words((i // 4, step, k0, k1), (k0, k1))[i % 4] for i in range(offset, offset + 11)
    ]
    assert (
        element_words(11, seed=seed, stream=stream, step=step, offset=offset).tolist() == expected
    )


@pytest.mark.parametrize(
    ("offset", "count"), [(0, 4097), (3, 1), (2**33 + 6, 11), (2**34 - 1001, 1001)]
)
def test_every_library_has_the_same_words(backend: Backend, offset: int, count: int) -> None:
    """RNG-3 from the middle of a block, beyond 2^32 elements, and to the end of the sequence."""
    where = {"seed": 2**63 + 5, "stream": 2**40 + 7, "step": 2**32 - 3, "offset": offset}

    def words(x):  # type: ignore[no-untyped-def]
        return q.RandomBits(**where).words(namespace_of(x), (count,), x)

    got = backend.numpy(backend.call(words, backend.array(np.zeros(count, np.float32))))
    assert got.dtype == np.int32
    assert (got.view(np.uint32) == element_words(count, **where)).all()


STEPS = (77, 2**31 - 1, 2**32 - 3)


def test_the_step_may_be_an_array() -> None:
    """RNG-3: int32 (which holds steps from 2^31 on as negative numbers) and int64, eager and in a
    graph.
    """
    import jax
    import tensorflow as tf
    import torch

    def words(step, x):  # type: ignore[no-untyped-def]
        return q.RandomBits(1, 2, step, 6).words(namespace_of(x), (50,), x)

    expected = [
        element_words(50, seed=1, stream=2, step=step, offset=6).view(np.int32) for step in STEPS
    ]
    for dtype in (np.int32, np.int64):
        steps = np.array(STEPS).astype(dtype)
        for compiled in (
            lambda f: f,
            tf.function,
            functools.partial(tf.function, jit_compile=True),
        ):
            program = compiled(words)
            for step, answer in zip(steps, expected, strict=True):
                assert (program(tf.constant(step), tf.zeros(50)).numpy() == answer).all()
        for step, answer in zip(steps, expected, strict=True):
            assert (words(torch.tensor(step), torch.zeros(50)).numpy() == answer).all()
    x = jax.numpy.zeros(50)
    steps = jax.numpy.asarray(np.array(STEPS, np.uint32))
    for program in (words, jax.jit(words)):
        for dtype in ("int32", "uint32"):
            for step, answer in zip(steps.astype(dtype), expected, strict=True):
                assert (np.asarray(program(step, x)) == answer).all()
    assert (np.asarray(jax.vmap(words, (0, None))(steps, x)) == expected).all()


def test_tensorflow_generates_outside_xla_alone() -> None:
    """The operation is many times slower than the reference implementation under XLA, and many
    times faster outside.
    """
    import tensorflow as tf

    @tf.function(autograph=False)
    def words(x):  # type: ignore[no-untyped-def]
        return q.RandomBits(1).words(namespace_of(x), (9,), x)

    def operations(function):  # type: ignore[no-untyped-def]
        return {
            node.op
            for node in function.get_concrete_function(tf.zeros(9)).graph.as_graph_def().node
        }

    assert "StatelessRandomUniformFullIntV2" in operations(words)
    for inner in (words.python_function, tf.function(words.python_function)):
        compiled = tf.function(inner, jit_compile=True, autograph=False)
        assert "StatelessRandomUniformFullIntV2" not in operations(compiled)


def test_a_generator_that_errs_is_not_used() -> None:
    """The known answers find out other words, a missing operation and one that fails; the array
    program serves.
    """
    import tensorflow as tf

    from qemu_swalp.arrays._tensorflow import TensorflowNamespace

    class Early(TensorflowNamespace):
        def generate(self, first, skipped, *rest):  # type: ignore[no-untyped-def]
            return super().generate(first, 0, *rest)

    class Absent(TensorflowNamespace):
        def generate(self, *counters):  # type: ignore[no-untyped-def]
            return tf.raw_ops.NoSuchOperation(*counters)

    class Failing(TensorflowNamespace):
        def generate(self, *counters):  # type: ignore[no-untyped-def]
            raise tf.errors.UnimplementedError(None, None, "no kernel")

    x = tf.zeros(9)
    assert generator_agrees(TensorflowNamespace(), x.device)
    expected = element_words(9, seed=5, stream=6, step=2**32 - 1, offset=2**34 - 9).view(np.int32)
    for namespace in (Early(), Absent(), Failing()):
        assert not generator_agrees(namespace, x.device)
        for words in (
            q.RandomBits(5, 6, 2**32 - 1, 2**34 - 9).words,
            tf.function(q.RandomBits(5, 6, 2**32 - 1, 2**34 - 9).words, autograph=False),
        ):
            assert (words(namespace, (9,), x).numpy() == expected).all()


def test_jax_compiles_one_program_for_all_streams_steps_and_offsets() -> None:
    import jax

    from qemu_swalp.arrays import _jax

    x = np.random.default_rng(2).standard_normal(37).astype(np.float32)
    draws = [
        q.RandomBits(seed, stream, 3 * seed, offset)
        for seed, stream, offset in ((1, 2, 0), (3, 4, 7), (5, 6, 9))
    ]
    sizes = []
    for random in draws:
        r = q.quantize(jax.numpy.asarray(x), "fixed<8,4>", "stochastic", random=random)
        assert (np.asarray(r) == q.quantize(x, "fixed<8,4>", "stochastic", random=random)).all()
        sizes.append(_jax._compiled._cache_size())
    assert sizes[0] == sizes[1] == sizes[2] > 0


def test_stream_ids() -> None:
    """RNG-4."""
    assert q.stream_id("weight", 3) == (zlib.crc32(b"weight") << 32) + 3
    ids = {
        q.stream_id(role, t) for role in ("weight", "gradient", "exp_avg_sq") for t in range(100)
    }
    assert len(ids) == 300


def test_chunks_of_a_large_array_are_one_sequence() -> None:
    """The same noise however the array is cut: at any offset, and across the pieces that NumPy
    arrays are worked in.
    """
    x = np.random.default_rng(0).standard_normal(140_001).astype(np.float32)
    whole = q.quantize(x, "fixed<8,4>", "stochastic", random=q.RandomBits(3, 4, 5))
    cut = [0, 1, 6, 8192, 8195, 65_539, 140_001]
    parts = [
        q.quantize(x[a:b], "fixed<8,4>", "stochastic", random=q.RandomBits(3, 4, 5, offset=a))
        for a, b in pairwise(cut)
    ]
    assert (np.concatenate(parts) == whole).all()
    words = element_words(140_001, seed=3, stream=4, step=5)
    assert (q.quantize(x, "fixed<8,4>", "stochastic", random=words) == whole).all()
    assert (
        q.quantize(x.reshape(-1, 1).T, "fixed<8,4>", "stochastic", random=q.RandomBits(3, 4, 5))[0]
        == whole
    ).all()


def test_noise_is_unbiased_and_differs_by_seed_stream_and_step() -> None:
    x = np.full(100_000, 0.3, np.float32)
    draws = [
        q.quantize(x, "fixed<8,0>", "stochastic", random=r)
        for r in (q.RandomBits(0), q.RandomBits(1), q.RandomBits(0, 1), q.RandomBits(0, 0, 1))
    ]
    for r in draws:
        assert abs(r.mean() - 0.3) < 5 * (0.21 / 100_000) ** 0.5
    for i, a in enumerate(draws):
        for b in draws[:i]:
            assert abs(np.corrcoef(a, b)[0, 1]) < 5 / 100_000**0.5


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda: q.RandomBits(-1),
            ValueError,
            "seed must be from 0 to 18446744073709551615, got -1",
        ),
        (lambda: q.RandomBits(0, 2**64), ValueError, "stream must be from 0"),
        (lambda: q.RandomBits(0, 0, 2**32), ValueError, "step must be from 0 to 4294967295"),
        (lambda: q.RandomBits(0, 0, 1.5), TypeError, "step must be an integer"),
        (lambda: q.RandomBits(0, offset=-4), ValueError, "offset must be from 0"),
        (
            lambda: element_words(5, offset=2**34 - 4),
            ValueError,
            "random bits reach 2\\^34 elements",
        ),
        (lambda: q.stream_id(3), TypeError, "role must be a string such as 'weight', got 3"),
        (lambda: q.stream_id("w", -1), ValueError, "tensor must be from 0"),
    ],
)
def test_bad_counters(make, error, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=words):
        make()
