"""How fast a GPU is, as ratios in one run."""

from __future__ import annotations

import itertools
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from qemu_swalp_torch import emulate

import qemu_swalp as q
from qemu_swalp.kernels.gpu import multi_tensor, quantize
from qemu_swalp.training import swalp
from tests.benchmarks import sgd_step
from tests.gpu.report import Row, Settings, Skipped

RANDOM = q.RandomBits(3, 5, 7)
FORMATS = ("e4m3fn", "bf16", "fixed<8,6>", "posit8", "bfp<8,axis=0>", "bfp8", "mxfp8_e4m3",
           "mxfp4", "nvfp4", "int<8,axis=0>")  # fmt: skip
MEMORY = "memory: strides and offsets"
"""The section that runs under sanitizers."""
KERNELS = ("qs_round", "qs_groups", "qs_rows", "qs_whole", "qs_reduce", "qs_blocks")
TARGETS = {
    ("float32", "e4m3fn"): (90, 80),
    ("bfloat16", "e4m3fn"): (75, 60),
    ("float32", "bfp<8,axis=0>"): (75, 75),
    ("float32", "mxfp8_e4m3"): (75, 75),
    ("float32", "bfp8"): (60, 60),
    ("float32", "nvfp4"): (45, 45),
}
"""(dtype, format) → least per cent of a copy on an H100, nearest and stochastic: issue 19."""


def _seconds(call: Callable[[int], object], times: int, settings: Settings) -> float:
    """Of a call, by events of the device; on the stand-in by the clock, for a figure of nothing."""
    call(0)
    torch.cuda.synchronize()
    found = []
    for _ in range(1 if settings.stand_in else 7):
        if settings.stand_in:
            start = time.perf_counter()
            call(0)
            found.append(time.perf_counter() - start)
            continue
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for i in range(times):
            call(i)
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end) / times / 1e3)
    return statistics.median(found)


def _rounded(arrays: Any, outs: Any, format: str, mode: str, i: int) -> object:
    x, out = arrays[i % len(arrays)], outs[i % len(outs)]
    return q.quantize(x, format, mode, random=RANDOM, out=out)


def bandwidth(settings: Settings) -> Iterator[Row]:
    """Rounding from an array to another, beside a copy between the same."""
    for dtype in (torch.float32, torch.bfloat16):
        for power in (12,) if settings.stand_in else (20, 28):
            arrays = [torch.randn(1 << power, device="cuda").to(dtype).view(-1, 4096)
                      for _ in range(2 if power == 28 else 4)]  # fmt: skip
            outs, times = [torch.empty_like(x) for x in arrays], 5 if power == 28 else 50

            def copy(i: int, arrays: Any = arrays, outs: Any = outs) -> object:
                return outs[i % len(outs)].copy_(arrays[i % len(arrays)])

            seconds = _seconds(copy, times, settings)
            moved = 2 * arrays[0].numel() * arrays[0].itemsize
            name = str(dtype).removeprefix("torch.")
            yield {"dtype": name, "elements": f"2^{power}", "format": "copy",
                   "TB/s": moved / seconds / 1e12}  # fmt: skip
            for format in FORMATS[:2] if settings.stand_in else FORMATS:
                for which, mode in enumerate(("nearest_even", "stochastic")):
                    call = partial(_rounded, arrays, outs, format, mode)
                    try:
                        ours = _seconds(call, times, settings)
                    except TypeError:
                        continue  # the dtype does not hold the format
                    share = 100 * seconds / ours
                    row: Row = {"dtype": name, "elements": f"2^{power}", "format": format,
                                "rounding": mode, "TB/s": moved / ours / 1e12,
                                "% of a copy": share}  # fmt: skip
                    if (name, format) in TARGETS and power == 28:
                        row["target"] = TARGETS[name, format][which]
                        row["reached"] = share >= row["target"]
                    yield row
                    if settings.over():
                        return


def host(settings: Settings) -> Iterator[Row]:
    """Microseconds of Python for a call."""
    x = torch.randn(64, device="cuda")
    out, calls = torch.empty_like(x), 20 if settings.stand_in else 2000
    for format in ("e4m3fn", "mxfp4", "nvfp4"):
        for _ in range(calls // 10):
            q.quantize(x, format, out=out)
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            q.quantize(x, format, out=out)
        yield {"format": format, "µs a call": (time.perf_counter() - start) / calls * 1e6}
        torch.cuda.synchronize()


def optimizer_step(settings: Settings) -> Iterator[Row]:
    """Steps of a ResNet-50 beside `torch.optim.SGD(fused=True)`."""
    rng = np.random.default_rng(0)
    shapes = list(sgd_step.shapes(8 if settings.stand_in else 64))
    shapes = shapes[:3] if settings.stand_in else shapes
    arrays = {str(i): rng.standard_normal(s, np.float32) / 10 for i, s in enumerate(shapes)}
    found = sgd_step.measure(sgd_step.steppers(arrays, "cuda"), 1 if settings.stand_in else 15)
    first = next(iter(found.values()))
    for name, seconds in found.items():
        yield {"step": name, "ms": 1e3 * seconds, "× fused": seconds / first}


def training_step(settings: Settings) -> Iterator[Row]:
    """Forward, backward and step of a small network, emulated and in float32."""
    width = 4 if settings.stand_in else 64
    batch = torch.randn(2 if settings.stand_in else 256, 3, 8, 8, device="cuda")
    seconds: dict[str, float] = {}
    for name in ("float32", "swalp(8)"):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Conv2d(3, width, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(64 * width, 10),
        ).to("cuda")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        if name != "float32":
            emulate(model, optimizer, swalp(8), seed=0)

        def step(_: int, model: Any = model, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()

        seconds[name] = _seconds(step, 20, settings)
        yield {"training": name, "ms": 1e3 * seconds[name],
               "× float32": seconds[name] / seconds["float32"]}  # fmt: skip


def resources(settings: Settings) -> Iterator[Row]:
    """Registers and memory of the kernels, as the driver tells."""
    if settings.stand_in:
        raise Skipped("the stand-in has no registers")
    from qemu_swalp.kernels.gpu.cupy_devices import _kernel

    for dtype, mode in itertools.product(("Single", "BFloat"), ("nearest_even", "stochastic_a")):
        programs = {name: quantize.program_of(dtype, mode) for name in KERNELS}
        if dtype == "Single":
            programs["qs_sgd"] = multi_tensor.sgd_program_of(dtype, [mode, mode, "", mode])
        for name, program in programs.items():
            found = _kernel(program, name).attributes
            yield {"kernel": name, "dtype": dtype, "mode": mode,
                   "registers": found["num_regs"], "local": found["local_size_bytes"],
                   "shared": found["shared_size_bytes"]}  # fmt: skip


def sanitizers(settings: Settings) -> Iterator[Row]:
    """NVIDIA's compute-sanitizer on a section, where it is installed."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        raise Skipped("compute-sanitizer is not installed; it comes with the CUDA toolkit")
    for check in ("memcheck", "racecheck", "synccheck", "initcheck"):
        seconds = min(90, settings.until - time.monotonic())
        command = [tool, "--tool", check, "--error-exitcode", "9", sys.executable, "-m",
                   "tests.gpu.child", os.devnull, str(seconds), MEMORY]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
            yield {"check": check, "ok": done.returncode == 0, "last": done.stdout[-60:]}
        except subprocess.TimeoutExpired:
            yield {"check": check, "last": f"not done in {seconds:.0f} s"}
