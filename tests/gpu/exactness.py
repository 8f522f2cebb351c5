"""Whether what a GPU gives has the bits of NumPy."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ml_dtypes
import numpy as np
import torch
from qemu_swalp_torch import SGD, quantize_optimizer

import qemu_swalp as q
from qemu_swalp.training import Quantizer, Recipe, swalp
from tests.gpu.report import Row, Settings
from tests.helpers import gpu_steps
from tests.helpers.backends import backend, gpu_missing
from tests.helpers.samples import array, bits

RANDOM = q.RandomBits(3, 5, 7, offset=2)
FEW = ("nearest_even", "stochastic")
MODES = (*FEW, "nearest_away", "toward_zero", "toward_positive", "toward_negative", "to_odd",
         "stochastic_b", "stochastic_c<8>")  # fmt: skip
NEAREST = Recipe(
    weight=Quantizer("bfp<8,axis=0>", "nearest_even"),
    gradient=Quantizer("bfp<8,axis=0>", "nearest_even"),
)


def bits_of_numpy(settings: Settings) -> Iterator[Row]:
    """Every format, dtype and rounding."""
    for library in ("torch-cuda", "cupy"):
        if reason := gpu_missing(library):
            yield {"library": library, "ok": False, "differ": reason}
            continue
        gpu = backend(library)
        for dtype in gpu.dtypes:
            modes = MODES if dtype == "float32" and not settings.stand_in else FEW
            for mode in modes:
                compared, differ = 0, []
                for format in settings.formats:
                    x = array(dtype)
                    try:
                        expected = q.quantize(x, format, mode, random=RANDOM)
                    except TypeError:
                        continue  # the dtype does not hold the format
                    compared += 1
                    try:
                        got = gpu.quantize(x, format, mode, random=RANDOM)
                        if (bits(got) != bits(expected)).any():
                            differ.append(format)
                    except Exception as error:
                        differ.append(f"{format} ({type(error).__name__}: {str(error)[:200]})")
                yield {"library": library, "dtype": dtype, "rounding": mode, "formats": compared,
                       "ok": not differ, "differ": ", ".join(differ)}  # fmt: skip
                if settings.over():
                    return


def _same(x: torch.Tensor, expected: np.ndarray) -> bool:
    return bool((bits(x.cpu().numpy()) == bits(expected)).all())


def memory(settings: Settings) -> Iterator[Row]:
    """Strides, offsets, in place, empty arrays, more than 2^31 elements."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal((40, 300)).astype(np.float32)
    whole = torch.from_numpy(base).to("cuda")
    views: dict[str, Any] = {
        "columns from 5": lambda x: x[:, 5:],
        "every third row": lambda x: x[::3],
        "transposed": lambda x: x.T,
        "every second column": lambda x: x[:, ::2],
        "no element": lambda x: x[:0],
        "one number": lambda x: x[3, 4],
    }
    for name, view in views.items():
        for format in ("e4m3fn", "bfp<8,axis=-1>", "mxfp4"):
            if name == "one number" and format != "e4m3fn":
                continue
            expected = q.quantize(np.array(view(base)), format, "stochastic", random=RANDOM)
            got = q.quantize(view(whole), format, "stochastic", random=RANDOM)
            yield {"memory": name, "format": format, "ok": _same(got, expected)}
    inside = whole.clone()
    q.quantize(inside[:, 5:], "bfp8", out=inside[:, 5:])
    expected = q.quantize(base[:, 5:], "bfp8")
    yield {"memory": "in place", "format": "bfp8", "ok": _same(inside[:, 5:], expected)}
    if settings.stand_in or torch.cuda.mem_get_info()[0] < 24 << 30:
        return
    n = (1 << 31) + 4099
    x = torch.randn(1 << 20, device="cuda").bfloat16().repeat(n // (1 << 20) + 1)[:n]
    y, tail = q.quantize(x, "e4m3fn", "stochastic", random=q.RandomBits(3, 5, 7)), n - 5000
    last = x[tail:].cpu().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    expected = q.quantize(last, "e4m3fn", "stochastic", random=q.RandomBits(3, 5, 7, offset=tail))
    got = y[tail:].cpu().view(torch.int16).numpy()
    yield {"memory": "2^31 elements", "format": "e4m3fn",
           "ok": bool((got == expected.view(np.int16)).all())}  # fmt: skip


def streams(settings: Settings) -> Iterator[Row]:
    """Side streams and threads."""
    x = torch.from_numpy(np.random.default_rng(0).standard_normal(1 << 14).astype(np.float32))
    x, expected = x.to("cuda"), q.quantize(x.numpy(), "bfp8")
    side = torch.cuda.Stream()
    ok = True
    for _ in range(2 if settings.stand_in else 50):
        with torch.cuda.stream(side):
            side.wait_stream(torch.cuda.current_stream())
            y = q.quantize(x * 1, "bfp8")
        torch.cuda.current_stream().wait_stream(side)
        ok &= _same(y, expected)
    yield {"case": "a side stream", "ok": ok}
    if settings.stand_in:
        return  # it holds one thread block at a time
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda _: _same(q.quantize(x, "bfp8"), expected), range(64))
        yield {"case": "eight threads", "ok": all(found)}


def steps(settings: Settings) -> Iterator[Row]:
    """Steps of SGD of 16-bit tensors and in channels_last, beside those of the host."""
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    for recipe in ("swalp",) if settings.stand_in else gpu_steps.RECIPES:
        for dtype, last in itertools.product(dtypes, (False, True)):
            got, expected = (
                gpu_steps.stepped(dtype, last, device, gpu_steps.RECIPES[recipe])
                for device in ("cuda", "cpu")
            )
            yield {"recipe": recipe, "dtype": str(dtype), "channels_last": last,
                   "ok": all(map(torch.equal, got, expected))}  # fmt: skip


def captures(settings: Settings) -> Iterator[Row]:
    """Steps in a CUDA graph, replayed, beside eager ones."""
    makers: dict[str, Any] = {
        "SGD, nearest": lambda p: SGD(
            [p], lr=0.1, momentum=0.9, recipe=NEAREST, capturable=True, seed=1
        ),
        "SGD, stochastic": lambda p: SGD(
            [p], lr=0.1, momentum=0.9, recipe=swalp(8).resolve(out=0), capturable=True, seed=1
        ),
        "Adam, hooked": lambda p: quantize_optimizer(
            torch.optim.Adam([p], capturable=True), NEAREST, seed=1
        ),
    }
    for name, make in makers.items():
        try:
            yield {"step": name, "ok": _replays_equal(make)}
        except Exception as error:  # as a driver or a library gives it: the next may do
            yield {"step": name, "ok": False, "error": f"{type(error).__name__}: {error}"}


def _replays_equal(make: Any) -> bool:
    start = torch.randn(300, 40, generator=torch.Generator().manual_seed(0))
    pairs = []
    for _ in range(2):
        p = torch.nn.Parameter(start.to("cuda", copy=True))
        p.grad = start.flip(0).to("cuda", copy=True)
        pairs.append((p, make(p)))
    (p, optimizer), (eager, other) = pairs
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        optimizer.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    taken = [  # memory that the capture gave back
        torch.full((512 * k,), 255, dtype=torch.uint8, device="cuda") for k in range(1, 40)
    ]
    for _ in range(3):
        graph.replay()
    for _ in range(4):
        other.step()
    torch.cuda.synchronize()
    return torch.equal(p.cpu(), eager.cpu()) and len(taken) == 39


def subnormals(settings: Settings) -> Iterator[Row]:
    """Gradients and hyper-parameters below the normal numbers, as NumPy steps."""
    from qemu_swalp.training import SGD as Core

    for name, optimizer, gradient in (
        ("maximize", Core(1.0, maximize=True), [1e-40, -1e-42, 1.0]),
        ("learning rate", Core(1e-40), [1.0, 4.0, -2.0]),
    ):

        def step(convert: Any, optimizer: Any = optimizer, gradient: Any = gradient) -> Any:
            params = {"w": convert(np.zeros(3, np.float32))}
            gradients = {"w": convert(np.float32(gradient))}
            return optimizer.update(params, gradients, optimizer.init(params))[0]["w"]

        got = step(lambda a: torch.from_numpy(a).to("cuda"))
        yield {"subnormal": name, "ok": _same(got, step(np.array))}
