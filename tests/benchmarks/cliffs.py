"""Where quantizing on a CPU could fall off a cliff: `python -m tests.benchmarks.cliffs`.

Block formats under scales of every kind along every axis, short blocks, every source dtype, and
tables of values. A figure is the least time of `quantize(x, format, out=out)` over the least time
of `numpy.copyto(out, x)`, both measured in turn in one process on one thread, in seconds of the
processor, so that what else the machine does counts less.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

import qemu_swalp as q
from qemu_swalp.kernels import set_num_threads
from tests.benchmarks.cases import ROUNDINGS, bits_of
from tests.benchmarks.timing import Call, alternate

MATRIX, WEIGHT, ONE_BY_ONE, POINTS = (
    (4096, 1024),
    (512, 512, 3, 3),
    (2048, 1024, 1, 1),
    (1 << 20, 3),
)


class Cliff(NamedTuple):
    """A format and the array that it is measured on."""

    format: str
    shape: tuple[int, ...] = MATRIX
    dtype: str = "float32"
    scales: tuple[int, ...] | None = None
    """The shape of scales that are given, if they are."""


ELEMENTS = "e4m3fn", "mxfp4"
SCALED = (
    "int<8>",
    "int<8,axis=0>",
    "int<8,axis=1>",
    "int<8,axis=0,size=128>",
    "int<8,axis=1,size=128>",
    "int<8,axis=1,size=3>",
    "int<4,zero_point,axis=1>",
    "block<e4m3fn,axis=1,scale=bf16>",
    "block<e5m2,axis=1,scale=bf16>",
    "block<e2m1fn,axis=0,size=16,scale=e4m3fn>",
    "block<e2m1fn,axis=1,size=16,scale=e4m3fn>",
    "nvfp4",
    "block<e2m1fn,axis=0,size=16,scale=e4m3fn,second=float<8,23>>",
    "fp8_128x128",
    "bfp<8,axis=1>",
)
SHORT = (
    "mxfp4",
    "block<e2m1fn,axis=1,size=32,scale=e8m0fnu>",
    "bfp<8,axis=0>",
    "bfp<8,axis=1>",
    "int<8,axis=0>",
    "int<8,axis=1>",
    "nvfp4",
)
TABLES = "posit8", "posit16", "lns8", "nf4", "codebook<-3,0.1,0.5,0.7,40>"
WIDE_TABLES = "takum8", "takum16", "takum_linear16"
DTYPES = "int<8>", "int<8,axis=1>", "block<e5m2,axis=1,scale=bf16>", "mxfp4", "posit8", "nf4"

SEARCHED = (
    "block<nf4,axis=-1,size=64,scale=float<8,23>>",
    "block<posit8,axis=0,scale=bf16,top=1>",
    "block<posit8,axis=-1,size=32,scale=e8m0fnu,top=1>",
    "block<fixed<8,0,symmetric>,axis=-1,size=32,scale=fp16,rule=ggml>",
    "block<e2m1fn,axis=-1,size=16,scale=e4m3fn,second=float<8,23>,rule=four_over_six>",
    "block<e2m1fn,axis=-1,size=32,scale=e8m0fnu,rule=mse>",
    "block<e2m1fn,axis=-1,size=16,scale=e4m3fn,second=float<8,23>,rule=mse>",
    "block<fixed<4,0,symmetric>,axis=0,scale=float<8,23>,rule=mse>",
)
GIVEN = {"int<8,axis=0>": (4096,), "int<4,axis=-1,size=64>": (4096, 16), "mxfp4": (4096, 32)}

CLIFFS = (
    *map(Cliff, (*ELEMENTS, *SCALED, *TABLES, *SEARCHED)),
    *(Cliff(format, scales=shape) for format, shape in GIVEN.items()),
    *(Cliff(format, MATRIX, "float64") for format in WIDE_TABLES),
    *(Cliff(format, shape) for shape in (WEIGHT, ONE_BY_ONE, POINTS) for format in SHORT),
    *(
        Cliff(format, MATRIX, dtype)
        for dtype in ("float16", "bfloat16", "float64")
        for format in DTYPES
    ),
)


def processor_clock(call: Call, count: int) -> float:
    """Seconds of the processor for one call."""
    start = time.process_time()
    for _ in range(count):
        call()
    return (time.process_time() - start) / count


def array(cliff: Cliff) -> np.ndarray:
    """Normally distributed."""
    kind = ml_dtypes.bfloat16 if cliff.dtype == "bfloat16" else np.dtype(cliff.dtype)
    return np.random.default_rng(0).standard_normal(cliff.shape, np.float32).astype(kind)


def ratio(cliff: Cliff, rounding: str, seconds: float) -> float | None:
    """Of a name in `ROUNDINGS`; None where the format does not go with the dtype."""
    x = array(cliff)
    out = np.empty_like(x)
    options: dict[str, Any] = {"random": bits_of(rounding), "out": out}
    if cliff.scales is not None:
        options["scales"] = np.full(cliff.scales, 0.25, np.float32)

    def call() -> Any:
        return q.quantize(x, cliff.format, ROUNDINGS[rounding], **options)

    try:
        call()
    except (TypeError, ValueError):
        return None
    copy = lambda: np.copyto(out, x)  # noqa: E731
    return alternate(processor_clock, copy, call, seconds, long=0.25).ratio


def main(arguments: list[str] | None = None) -> int:
    """Prints a line for each format and array."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.cliffs", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=0.15, help="of a measurement")
    parser.add_argument("--only", default="", help="formats that contain this text")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to it")
    chosen = parser.parse_args(arguments)
    set_num_threads(1)
    figures = []
    for cliff in CLIFFS:
        if chosen.only not in cliff.format:
            continue
        ratios = [ratio(cliff, rounding, chosen.seconds) for rounding in ROUNDINGS]
        shape = "×".join(map(str, cliff.shape))
        texts = ["—" if value is None else f"{value:.2f}" for value in ratios]
        name = cliff.format if cliff.scales is None else f"{cliff.format}, given scales"
        print(f"{name:82} {shape:14} {cliff.dtype:9} {texts[0]:>7} {texts[1]:>7}", flush=True)
        figures.append({**cliff._asdict(), **dict(zip(ROUNDINGS, ratios, strict=True))})
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
