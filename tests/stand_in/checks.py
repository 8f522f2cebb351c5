"""What no test of the GPU itself asks, and the stand-in shows: `tests/kernels/test_stand_in.py`
runs it with its plugin.
"""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np
import pytest
import torch
from qemu_swalp_torch import SGD, quantize_optimizer

import qemu_swalp as q
from qemu_swalp.training import Quantizer, Recipe
from tests.stand_in import cupy_module, graphs, torch_cuda

NEAREST = Recipe(
    weight=Quantizer("bfp<8,axis=0>", "nearest_even"),
    gradient=Quantizer("bfp<8,axis=0>", "nearest_even"),
)
MADE: dict[str, Any] = {
    "ours": lambda p: SGD([p], lr=0.1, momentum=0.9, recipe=NEAREST, capturable=True, seed=1),
    "hooks": lambda p: quantize_optimizer(torch.optim.Adam([p], capturable=True), NEAREST, seed=1),
}


def on_device(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to("cuda")


def test_what_is_marked_and_what_is_not() -> None:
    x = on_device(4, 4)
    assert (x.is_cuda, x.device, (x + 1)[0].is_cuda) == (True, torch.device("cuda", 0), True)
    assert not x.cpu().is_cuda
    assert not torch.ones(3).is_cuda
    assert torch.nn.Parameter(x).is_cuda
    assert torch.nn.Linear(2, 2).to("cuda").weight.is_cuda
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        x.numpy()
    with pytest.raises(TypeError, match="Implicit conversion"):
        np.asarray(cupy.zeros(3))


def test_memory_that_is_given_back_is_overwritten() -> None:
    held = cupy.asarray(np.zeros(5, np.float32))
    address = held.data.ptr
    del held
    again = cupy.asarray(np.zeros(7, np.float32))
    assert again.data.ptr == address


@pytest.mark.filterwarnings("error::DeprecationWarning")
def test_launches_are_on_the_stream_of_pytorch() -> None:
    x, stream = on_device(64), torch.cuda.Stream()
    cupy_module.LAUNCHED.clear()
    q.quantize(x, "e4m3fn")
    with torch.cuda.stream(stream):
        q.quantize(x, "e4m3fn")
    default = torch.cuda.current_stream().cuda_stream
    streams = [number for _, number in cupy_module.LAUNCHED]
    assert streams == [default, stream.cuda_stream]


@pytest.mark.parametrize("kind", MADE)
def test_a_graph_keeps_what_its_replays_read(kind: str) -> None:
    """Memory that CuPy takes back after the capture is not read by them."""

    def made() -> tuple[torch.nn.Parameter, Any]:
        p = torch.nn.Parameter(on_device(30, 30))
        p.grad = on_device(30, 30, seed=1)
        return p, MADE[kind](p)

    (p, optimizer), (eager, other) = made(), made()
    optimizer.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    held = [cupy.asarray(np.full(512 * k, 255, np.uint8)) for k in range(1, 40)]
    for _ in range(3):
        graph.replay()
    for _ in range(4):
        other.step()
    assert torch.equal(p.cpu(), eager.cpu())
    assert len(held) == 39


def test_a_first_use_within_a_capture_is_refused_with_words() -> None:
    x = on_device(64)
    out = torch.empty_like(x)
    q.quantize(x, "e4m3fn", out=out)
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        q.quantize(x, "e4m3fn", out=out)
        for call in (
            lambda: q.quantize(x, "posit<7,1>", out=out),  # tables to copy
            lambda: q.quantize(x, "e4m3fn", "toward_positive", out=out),  # a kernel to compile
        ):
            with pytest.raises(RuntimeError, match="do once what is to be captured"):
                call()
    assert not graphs.capturing()


def test_each_gpu_compiles_for_itself() -> None:
    from qemu_swalp.kernels import structs
    from qemu_swalp.kernels.gpu import cupy_devices, quantize

    x = on_device(64)
    q.quantize(x, "e4m3fn")
    program, call = quantize.program_of("Single", "nearest_even"), structs.QuantizeCall()
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        cupy_devices.torch_gpu(0).device.launch(program, "qs_round", 1, call)
        with pytest.raises(RuntimeError, match="do once what is to be captured"):
            cupy_devices.TorchDevice(1).launch(program, "qs_round", 1, call)


def test_a_step_on_another_gpu_is_not_read_by_address(monkeypatch: pytest.MonkeyPatch) -> None:
    x, step = on_device(64), torch.tensor(5, device="cuda")
    expected = q.quantize(x.cpu(), "e4m3fn", "stochastic", random=q.RandomBits(1, 2, 5))
    from qemu_swalp.kernels.backends.torch import BACKEND

    assert BACKEND.step_address(step, x) == step.data_ptr()
    assert torch.equal(
        q.quantize(x, "e4m3fn", "stochastic", random=q.RandomBits(1, 2, step)).cpu(), expected
    )
    own = torch_cuda.device_of
    monkeypatch.setattr(
        torch_cuda, "device_of", lambda t: torch.device("cuda", 1) if t is step else own(t)
    )
    assert BACKEND.step_address(step, x) is None
    got = q.quantize(x, "e4m3fn", "stochastic", random=q.RandomBits(1, 2, step))
    assert torch.equal(got.cpu(), expected)


def test_an_output_of_which_elements_share_memory_is_refused() -> None:
    x = on_device(3, 4)
    with pytest.raises(RuntimeError, match="single memory location"):
        q.quantize(x, "e4m3fn", out=torch.empty(4, device="cuda").expand(3, 4))


def test_uploads_of_a_step_are_in_the_memory_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    p = torch.nn.Parameter(on_device(30, 30))
    p.grad = on_device(30, 30, seed=1)
    optimizer = SGD([p], lr=0.1, recipe=NEAREST, seed=1)
    optimizer.step()
    monkeypatch.setattr(cupy, "asarray", None)
    monkeypatch.setattr(cupy, "empty", None)
    optimizer.step()


def test_products_of_new_shapes_copy_nothing_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from qemu_swalp.kernels.gpu.cupy_devices import TorchDevice

    accumulation = "e4m3fn/nearest_even"

    def product(*batches: int) -> torch.Tensor:
        a, b = on_device(*batches, 5, 7), on_device(7, 3, seed=1)
        found = q.matmul(a, b, accumulation)
        assert torch.equal(found.cpu(), q.matmul(a.cpu(), b.cpu(), accumulation))
        return found

    product(2)
    monkeypatch.setattr(TorchDevice, "place", None)
    for batches in ((3,), (2, 2), ()):
        product(*batches)
