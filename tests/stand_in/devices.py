"""Arrays of a device that is not the current one: kernels, and what they need, are on theirs.
`tests/kernels/test_stand_in.py` runs it with the plugin.
"""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np
import pytest
import torch
from qemu_swalp_torch import SGD as TorchSGD

import qemu_swalp as q
from qemu_swalp.training import SGD, Recipe, swalp
from tests.stand_in import memory

VALUES = np.random.default_rng(0).standard_normal((40, 30)).astype(np.float32)
WORDS = np.random.default_rng(1).integers(0, 2**32, VALUES.shape, np.uint32)
RANDOM = q.RandomBits(1, 2, 3)
FORMATS = ("e4m3fn", "nf4", "bfp<8,axis=0>", "nvfp4", "mxfp4")


def on(number: int, values: np.ndarray) -> Any:
    """A CuPy array on a device."""
    with cupy.cuda.Device(number):
        return cupy.asarray(values)


@pytest.mark.parametrize("format", FORMATS)
def test_rounding(format: str) -> None:
    expected = q.quantize(VALUES, format, "stochastic", random=RANDOM)
    x = on(1, VALUES)
    got = q.quantize(x, format, "stochastic", random=RANDOM)
    assert got.device.id == 1
    assert np.array_equal(cupy.asnumpy(got), expected)
    assert q.quantize(x, format, "stochastic", random=RANDOM, out=x) is x
    assert np.array_equal(cupy.asnumpy(x), expected)
    marked = torch.from_numpy(VALUES).to("cuda:1")
    found = q.quantize(marked, format, "stochastic", random=RANDOM)
    assert found.device == torch.device("cuda", 1)
    assert np.array_equal(found.cpu().numpy(), expected)
    assert memory.current == [0]


def test_random_words_and_steps_of_another_device() -> None:
    expected = q.quantize(VALUES, "e4m3fn", "stochastic", random=WORDS)
    for number in (0, 1):
        got = q.quantize(on(1, VALUES), "e4m3fn", "stochastic", random=on(number, WORDS))
        assert np.array_equal(cupy.asnumpy(got), expected)
        random = q.RandomBits(1, 2, on(number, np.int64(3)))
        got = q.quantize(on(1, VALUES), "e4m3fn", "stochastic", random=random)
        expected_of_step = q.quantize(VALUES, "e4m3fn", "stochastic", random=RANDOM)
        assert np.array_equal(cupy.asnumpy(got), expected_of_step)


def test_a_view_and_a_product() -> None:
    x, y = on(1, VALUES), on(1, VALUES.T.copy())
    got = q.quantize(x[::-1, 3::2], "e4m3fn")
    assert (got.device.id, got.shape) == (1, (40, 14))
    assert np.array_equal(cupy.asnumpy(got), q.quantize(VALUES[::-1, 3::2], "e4m3fn"))
    product = q.matmul(x, y, "e4m3fn/nearest_even")
    assert product.device.id == 1
    expected = q.matmul(VALUES, VALUES.T.copy(), "e4m3fn/nearest_even")
    assert np.array_equal(cupy.asnumpy(product), expected)


def test_steps() -> None:
    def stepped(convert: Any) -> Any:
        optimizer = SGD(0.1, 0.9, recipe=swalp(8).resolve(out=0), seed=3)
        params = {"w": convert(VALUES)}
        state = optimizer.init(params)
        for _ in range(2):
            params, state = optimizer.update(params, {"w": convert(VALUES[::-1].copy())}, state)
        return params["w"]

    got = stepped(lambda values: on(1, values))
    assert got.device.id == 1
    assert np.array_equal(cupy.asnumpy(got), stepped(np.array))


def test_steps_of_pytorch() -> None:
    def stepped(device: str) -> torch.Tensor:
        p = torch.nn.Parameter(torch.from_numpy(VALUES.copy()).to(device))
        p.grad = torch.from_numpy(VALUES[::-1].copy()).to(device)
        TorchSGD([p], lr=0.1, momentum=0.9, recipe=Recipe(weight="bfp8/stochastic"), seed=1).step()
        return p.detach()

    got = stepped("cuda:1")
    assert got.device == torch.device("cuda", 1)
    assert torch.equal(got.cpu(), stepped("cpu"))
