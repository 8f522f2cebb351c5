"""Arrays that lie in memory in another order than C's are rounded where they are.
`tests/kernels/test_stand_in.py` runs it with the plugin.
"""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np
import pytest
import torch

import qemu_swalp as q
from qemu_swalp.kernels.backends import cupy as of_cupy, torch as of_torch
from tests.helpers.samples import bits
from tests.stand_in import cupy_module

RANDOM = q.RandomBits(2**40 + 3, 7, 2**31 + 7, offset=6)
SHAPE = (3, 12, 5, 6)
VALUES = np.random.default_rng(0).standard_normal(SHAPE) * 3
WORDS = np.random.default_rng(1).integers(0, 2**32, SHAPE, np.uint32)
ORDERS = {
    "channels_last": (0, 2, 3, 1),
    "batch last": (1, 2, 3, 0),
    "backwards": (3, 2, 1, 0),
}
ELEMENTS = ("e4m3fn", "bf16", "e5m2", "nf4", "posit8")
BLOCKS = ("bfp<8,axis=0>", "bfp<8,axis=1>", "bfp8", "mxfp4", "nvfp4", "block<e4m3fn,axis=1,size=4>")


def in_order(values: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """The same array, in memory that has the axes in another order."""
    back = tuple(int(axis) for axis in np.argsort(order))
    return np.ascontiguousarray(values.transpose(order)).transpose(back)


class Torch:
    backend = of_torch.BACKEND

    def array(self, values: np.ndarray) -> Any:
        signed = values.astype(np.int32) if values.dtype == np.uint32 else values
        return torch.from_numpy(signed).to("cuda")

    def numpy(self, x: Any) -> np.ndarray:
        found: np.ndarray = x.cpu().numpy()
        return found

    def strides(self, x: Any) -> tuple[int, ...]:
        return tuple(x.stride())


class Cupy:
    backend = of_cupy.BACKEND

    def array(self, values: np.ndarray) -> Any:
        return cupy.asarray(values)  # order="K"

    def numpy(self, x: Any) -> np.ndarray:
        found: np.ndarray = cupy.asnumpy(x)
        return found

    def strides(self, x: Any) -> tuple[int, ...]:
        return tuple(stride // x.itemsize for stride in x.strides)


@pytest.fixture(params=[Torch, Cupy], ids=["torch", "cupy"])
def library(request: pytest.FixtureRequest) -> Any:
    return request.param()


@pytest.fixture
def no_copies(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Any, x: Any) -> Any:
        raise AssertionError("copied to C order")

    monkeypatch.setattr(type(library.backend), "contiguous", refused)


@pytest.mark.usefixtures("no_copies")
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_rounded_where_they_are(dtype: str, order: str, library: Any) -> None:
    values = in_order(VALUES.astype(dtype), ORDERS[order])
    x, modes = library.array(values), ("nearest_even", "stochastic")
    for format in ELEMENTS + BLOCKS if dtype == "float32" else ELEMENTS[:1] + BLOCKS[:1]:
        for mode in modes if format in ELEMENTS else modes[:1]:
            expected = bits(q.quantize(values, format, mode, random=RANDOM))
            cupy_module.LAUNCHED.clear()
            got = q.quantize(x, format, mode, random=RANDOM)
            assert cupy_module.LAUNCHED
            assert library.strides(got) == library.strides(x)
            assert (bits(library.numpy(got)) == expected).all(), (format, mode)
            out = library.array(values)
            assert q.quantize(out, format, mode, random=RANDOM, out=out) is out
            assert (bits(library.numpy(out)) == expected).all(), (format, mode)


@pytest.mark.usefixtures("no_copies")
def test_words_that_are_given(library: Any) -> None:
    values = in_order(VALUES.astype("float32"), ORDERS["channels_last"])
    got = q.quantize(library.array(values), "e4m3fn", "stochastic", random=library.array(WORDS))
    expected = q.quantize(values, "e4m3fn", "stochastic", random=WORDS)
    assert (bits(library.numpy(got)) == bits(expected)).all()


@pytest.mark.usefixtures("no_copies")
def test_views_with_gaps(library: Any) -> None:
    """And outputs of other strides; an axis backwards."""
    values = in_order(VALUES.astype("float32"), ORDERS["channels_last"])
    x = library.array(values)
    views = [lambda a: a[:, 2:9, ::2], lambda a: a[:, :, :, 1:4], lambda a: a[1:]]
    if isinstance(library, Cupy):
        views.append(lambda a: a[:, :, ::-1])
    for view in views:
        for format in ("e4m3fn", "bfp<8,axis=1>"):
            expected = q.quantize(np.ascontiguousarray(view(values)), format)
            got = q.quantize(view(x), format)
            assert np.array_equal(library.numpy(got), expected), format
            inside = library.array(values)
            q.quantize(view(inside), format, out=view(inside))
            found, whole = library.numpy(inside), values.copy()
            view(whole)[...] = expected
            assert np.array_equal(found, whole), format


def test_what_has_to_be_copied_has_the_same_bits(library: Any) -> None:
    """Stochastic blocks, gaps with random words, outputs in other orders, every second element."""
    values = in_order(VALUES.astype("float32"), ORDERS["channels_last"])
    x = library.array(values)
    for view, format, mode in (
        (lambda a: a, "bfp<8,axis=0>", "stochastic"),
        (lambda a: a[:, 2:9], "e4m3fn", "stochastic"),
        (lambda a: a[:, ::2], "e4m3fn", "nearest_even"),
    ):
        expected = q.quantize(np.ascontiguousarray(view(values)), format, mode, random=RANDOM)
        got = q.quantize(view(x), format, mode, random=RANDOM)
        assert (bits(library.numpy(got)) == bits(expected)).all(), (format, mode)
    for mode in ("nearest_even", "stochastic"):
        out = library.array(np.ascontiguousarray(VALUES.astype("float32")))
        assert q.quantize(x, "e4m3fn", mode, random=RANDOM, out=out) is out
        expected = q.quantize(values, "e4m3fn", mode, random=RANDOM)
        assert (bits(library.numpy(out)) == bits(expected)).all(), mode


def test_packs_across_rows_and_long_arrays(library: Any) -> None:
    """And tiles of rows, whose words lie in one block or in two, at every place of it."""
    for shape in ((2, 3, 7, 5), (1, 5, 1, 9), (2, 8, 40, 33), (5, 1, 6, 1), (2, 16, 3, 5)):
        for dtype in ("float32", "float16"):
            values = np.random.default_rng(2).standard_normal(shape).astype(dtype)
            values = in_order(values, ORDERS["channels_last"])
            for offset in range(4):
                random = q.RandomBits(3, 5, 7, offset)
                got = q.quantize(library.array(values), "e4m3fn", "stochastic", random=random)
                expected = q.quantize(values, "e4m3fn", "stochastic", random=random)
                same = bits(library.numpy(got)) == bits(expected)
                assert same.all(), (shape, dtype, offset)
