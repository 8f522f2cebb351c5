"""The kernels on a GPU: CuPy arrays and CUDA tensors have the bits of NumPy. Skipped by name where
there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import qemu_swalp as q
from qemu_swalp import kernels
from qemu_swalp.training import SGD, swalp
from tests.helpers.backends import Backend, backend, gpu_missing
from tests.helpers.samples import ACCUMULATIONS, FEW_FORMATS, array, bits
from tests.kernels.test_matmul import coarse

RANDOM = q.RandomBits(3, 5, 7, offset=2)


def represents(dtype: str, format: str) -> bool:
    """Whether arrays of the dtype hold the format's values."""
    try:
        q.quantize(array(dtype)[:0], format)
    except TypeError:
        return False
    return True


@pytest.fixture(params=["cupy", "torch-cuda"])
def gpu(request: pytest.FixtureRequest) -> Backend:
    if reason := gpu_missing(request.param):
        pytest.skip(reason)
    return backend(request.param)


@pytest.fixture
def launched(gpu: Backend, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the kernels that run."""
    from qemu_swalp.kernels.gpu.cupy_devices import CupyDevice

    found: list[str] = []
    launch = CupyDevice.launch
    monkeypatch.setattr(
        CupyDevice,
        "launch",
        lambda self, program, kernel, *rest: (
            found.append(kernel),
            launch(self, program, kernel, *rest),
        ),
    )
    return found


@pytest.mark.parametrize("format", FEW_FORMATS)
def test_every_rounding(format: str, gpu: Backend, launched: list[str]) -> None:
    for dtype in gpu.dtypes:
        if not represents(dtype, format):
            continue
        x = array(dtype)
        for rounding in ("nearest_even", "toward_zero", "stochastic", "stochastic_c<8>"):
            launched.clear()
            got = gpu.quantize(x, format, rounding, random=RANDOM)
            assert launched
            assert (bits(got) == bits(q.quantize(x, format, rounding, random=RANDOM))).all(), (
                dtype,
                rounding,
            )


@pytest.mark.parametrize("format", FEW_FORMATS)
def test_large_arrays_views_and_in_place(format: str, gpu: Backend, launched: list[str]) -> None:
    shape = (1 << 10, (1 << 12) + 5)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected = q.quantize(x[:, 5:], format, "stochastic", random=RANDOM)
    whole = gpu.array(x)
    view = whole[:, 5:]
    assert (
        bits(gpu.numpy(q.quantize(view, format, "stochastic", random=RANDOM))) == bits(expected)
    ).all()
    assert q.quantize(view, format, "stochastic", random=RANDOM, out=view) is view
    assert (bits(gpu.numpy(view)) == bits(expected)).all()
    assert (gpu.numpy(whole)[:, :5] == x[:, :5]).all()
    assert launched


def test_steps_of_sgd(gpu: Backend, launched: list[str]) -> None:
    rng = np.random.default_rng(0)
    shapes = [(64, 3, 3, 3), (64,), (128, 64), (10, 128), (300, 4096)]
    params = {str(shape): rng.standard_normal(shape).astype(np.float32) for shape in shapes}
    gradients = {
        name: rng.standard_normal(w.shape).astype(np.float32) for name, w in params.items()
    }
    optimizer = SGD(0.05, 0.9, weight_decay=1e-3, recipe=swalp(8).resolve(out=0), seed=3)

    def run(convert: Any) -> list[Any]:
        own, state = {name: convert(w) for name, w in params.items()}, optimizer.init(params)
        for _ in range(3):
            own, state = optimizer.update(
                own, {name: convert(g) for name, g in gradients.items()}, state
            )
        return [a for name in own for a in (own[name], state.slots[name].velocity)]

    got = run(gpu.array)
    assert launched == ["qs_sgd"] * 3
    assert all(
        (bits(gpu.numpy(a)) == bits(b)).all() for a, b in zip(got, run(np.array), strict=True)
    )


@pytest.mark.parametrize("accumulation", ACCUMULATIONS)
def test_products(accumulation: str, gpu: Backend, launched: list[str]) -> None:
    rng = np.random.default_rng(0)
    for dtype in ("float32", "float64"):
        for spread in (3, 60):  # in float32, and not
            a, b = (
                coarse(rng, (2, 1, 190, 70), spread).astype(dtype),
                coarse(rng, (3, 70, 40), spread).astype(dtype),
            )
            launched.clear()
            got = gpu.matmul(a, b, accumulation, RANDOM)
            assert launched[-1:] == ["qs_matmul"]
            assert (bits(got) == bits(q.matmul(a, b, accumulation, random=RANDOM))).all(), (
                dtype,
                spread,
            )


def test_streams_and_graphs() -> None:
    if reason := gpu_missing("torch-cuda"):
        pytest.skip(reason)
    import torch

    x = torch.randn(1 << 16, device="cuda")
    step = torch.zeros((), dtype=torch.int64, device="cuda")
    out = torch.empty_like(x)

    def rounded() -> None:
        q.quantize(
            x, "bfp<8,axis=-1,size=64>", "stochastic", random=q.RandomBits(1, 2, step), out=out
        )
        step.add_(1)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        rounded()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        rounded()
    for now in (1, 2, 3):
        graph.replay()
        expected = q.quantize(
            x.cpu(), "bfp<8,axis=-1,size=64>", "stochastic", random=q.RandomBits(1, 2, now)
        )
        assert torch.equal(out.cpu(), expected)


def test_kernels_off(gpu: Backend, launched: list[str]) -> None:
    with kernels.disabled():
        gpu.quantize(array("float32"), "e4m3fn")
    assert not launched
