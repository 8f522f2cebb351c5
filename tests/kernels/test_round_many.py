"""Rounding of many arrays in one call gives the bits of rounding each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qemu_swalp as q
from qemu_swalp import kernels
from qemu_swalp.kernels.cpu import CPU
from qemu_swalp.ops.round_many import round_many
from qemu_swalp.training import Quantizer
from tests.helpers.samples import bits


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tensors each call of the kernels had."""
    counts: list[int] = []
    call = CPU.round_many
    monkeypatch.setattr(
        CPU,
        "round_many",
        lambda tensors, chunks: (counts.append(len(tensors)), call(tensors, chunks)),
    )
    return counts


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_many_arrays_in_one_call(dtype: str, calls: list[int]) -> None:
    """What the kernels do not support stays as it was: too large a block, a step that is not an
    int.
    """
    given = [
        ("bfp<8,axis=0>/stochastic", (30, 500)),
        ("bfp8/stochastic", (77,)),
        ("e4m3fn/nearest_even", (3, 5, 7)),
        ("nf4/toward_zero", (9,)),
        ("mxfp4/stochastic", (64, 320)),
        ("bfp8/stochastic", (3, 200000)),
        ("bfp<8,axis=-1>/stochastic", (4, 100000)),
        ("e5m2/stochastic", (10,)),
    ]
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(dtype) for _, shape in given]
    before = [x.copy() for x in arrays]
    quantizers = [Quantizer(text if "/" in text else f"{text}/stochastic") for text, _ in given]
    random: list[Any] = [q.RandomBits(3, 2**33 + i, 5) for i in range(len(given))]
    random[-1] = q.RandomBits(3, 1, np.int64(5))
    done = round_many(arrays, quantizers, random)
    assert done == [True] * 5 + [False] * 3
    assert calls == [5]
    for x, old, quantizer, bits_of, taken in zip(
        arrays, before, quantizers, random, done, strict=True
    ):
        with kernels.disabled():
            expected = quantizer(old, bits_of) if taken else old
        assert (bits(x) == bits(expected)).all()
    with kernels.disabled():
        assert round_many(arrays, quantizers, random) == [False] * len(arrays)


def test_nothing_is_rounded_if_a_dtype_cannot_represent_a_format() -> None:
    arrays = [np.full(4, 0.3, np.float32), np.ones(4, np.float32)]
    quantizers = [Quantizer("e4m3fn/nearest_even"), Quantizer("fixed<30,4>/nearest_even")]
    with pytest.raises(TypeError, match="cannot represent the values of fixed<30,4>"):
        round_many(arrays, quantizers, [None, None])
    assert (arrays[0] == np.float32(0.3)).all()


def test_read_only_and_strided_arrays_are_left() -> None:
    read_only, strided = np.full(8, 0.3, np.float32), np.full(8, 0.3, np.float32)[::2]
    read_only.flags.writeable = False
    quantizers = [Quantizer("e4m3fn/nearest_even")] * 2
    assert round_many([read_only, strided], quantizers, [None, None]) == [False, False]
    assert (read_only == np.float32(0.3)).all()
    assert (strided == np.float32(0.3)).all()


def test_arrays_that_overlap_are_rounded_in_their_order(calls: list[int]) -> None:
    """As one after the other, though blocks of the second begin within those of the first."""
    memory = np.random.default_rng(0).standard_normal(70).astype(np.float32)
    parts, expected = [memory[:64], memory[3:67]], memory.copy()
    quantizers = [Quantizer("block<e4m3fn,axis=0,size=32,scale=e8m0fnu>/nearest_even")] * 2
    for view in (expected[:64], expected[3:67]):
        quantizers[0](view.copy(), out=view)
    assert round_many(parts, quantizers, [None, None]) == [True, True]
    assert calls == [1, 1]
    assert (bits(memory) == bits(expected)).all()
