"""Hadamard transforms: the kernel gives what the reference implementation gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given, settings, strategies as st

import qemu_swalp as q
from qemu_swalp import kernels
from tests.helpers.backends import same_bits

RANDOM = q.RandomBits(3, 4, 5)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([1, 2, 3, 7, 16, 31, 33, 100]), min_size=1, max_size=3),
    st.data(),
    st.sampled_from(["float16", "float32", "float64"]),
    st.sampled_from(["none", "random", "fixed"]),
)
def test_bits(lengths: list[int], data: Any, dtype: str, signs: str) -> None:
    axis = data.draw(st.integers(0, len(lengths) - 1))
    size = 2 ** data.draw(st.integers(0, 8))
    x = np.random.default_rng(size).standard_normal(lengths).astype(dtype)
    if data.draw(st.booleans()):
        x = x[..., ::-1]
    transform = f"hadamard<{size},signs={signs}>"
    got = q.hadamard_transform(x, transform, axis=axis, random=RANDOM)
    with kernels.disabled():
        expected = q.hadamard_transform(x, transform, axis=axis, random=RANDOM)
    assert same_bits(got, expected).all()


def test_long_blocks_and_many_rows() -> None:
    x = np.random.default_rng(0).standard_normal((70, 5000)).astype(np.float32)
    for size in (16, 4096, 8192):
        for axis in (0, 1):
            got = q.hadamard_transform(x, f"hadamard<{size}>", axis=axis)
            with kernels.disabled():
                assert same_bits(got, q.hadamard_transform(x, f"hadamard<{size}>", axis=axis)).all()


def test_the_gradient_of_a_tensor_stays() -> None:
    x = torch.randn(3, 16, requires_grad=True)
    q.hadamard_transform(x, "hadamard<16>").square().sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, 2 * x.detach())  # orthogonal
