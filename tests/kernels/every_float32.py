"""Every one of the 2^32 float32 numbers, NaNs included: `python -m tests.kernels.every_float32`.

The compiled kernels against ml_dtypes (nearest even, by its casts) and against the reference
implementation (any mode), bit for bit. All dtypes of ml_dtypes take half an hour on a core, each
format and mode against the reference implementation about five minutes; the last lines say what was
compared. `--part N/M` compares the N-th of M equal parts.
"""

from __future__ import annotations

import argparse
import sys
import time

import ml_dtypes
import numpy as np
from tqdm import tqdm

import qemu_swalp as q
from qemu_swalp import kernels
from qemu_swalp.kernels import cpu

STEP = 1 << 22
DTYPES = {
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
    "e5m2": ml_dtypes.float8_e5m2,
    "e4m3": ml_dtypes.float8_e4m3,
    "e3m4": ml_dtypes.float8_e3m4,
    "e4m3fn": ml_dtypes.float8_e4m3fn,
    "e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "e4m3b11fnuz": ml_dtypes.float8_e4m3b11fnuz,
    "e2m3fn": ml_dtypes.float6_e2m3fn,
    "e3m2fn": ml_dtypes.float6_e3m2fn,
    "e2m1fn": ml_dtypes.float4_e2m1fn,
}
FORMATS = ("e4m3fn", "fixed<8,6>", "bf16", "float<4,3,subnormals=false>", "nf4")
MODES = ("nearest_even", "toward_positive", "stochastic", "stochastic_c<8>")


def by_ml_dtypes(x: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return x.astype(DTYPES[name]).astype(np.float32)


def ours(x: np.ndarray, name: str) -> np.ndarray:
    """With the overflow of ml_dtypes: infinity or NaN where the format has one. It makes numbers of
    NaN where not.
    """
    format = q.parse(name)
    policy = "infinity" if format.has_infinity else "nan" if format.has_nan else "saturate"
    return q.quantize(x, format, overflow=policy)


def main() -> int:
    """0 if all bits agree."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--dtypes", nargs="*", default=list(DTYPES), choices=list(DTYPES), help="against ml_dtypes"
    )
    parser.add_argument(
        "--formats", nargs="*", default=FORMATS, help="against the reference implementation"
    )
    parser.add_argument(
        "--modes", nargs="*", default=MODES, help="against the reference implementation"
    )
    parser.add_argument("--part", default="1/1", metavar="N/M")
    chosen = parser.parse_args()
    if cpu.library() is None:
        sys.exit("the CPU kernels are not compiled: python -m qemu_swalp.kernels.build")
    part, parts = map(int, chosen.part.split("/"))
    first, last = (part - 1) * 2**32 // parts, part * 2**32 // parts
    starts = range(first, last, STEP)
    wrong: dict[str, int] = {f"{name} as ml_dtypes": 0 for name in chosen.dtypes}
    wrong |= {f"{name} {mode}": 0 for name in chosen.formats for mode in chosen.modes}
    began = time.time()
    for start in tqdm(starts, unit_scale=STEP, unit=" numbers", smoothing=0.05):
        x = (
            np.arange(start, min(start + STEP, last), dtype=np.uint64)
            .astype(np.uint32)
            .view(np.float32)
        )
        for name in chosen.dtypes:
            expected, got = by_ml_dtypes(x, name), ours(x, name)
            nan = np.isnan(x) if not q.parse(name).has_nan else np.isnan(expected) & np.isnan(got)
            wrong[f"{name} as ml_dtypes"] += int(
                ((expected.view(np.uint32) != got.view(np.uint32)) & ~nan).sum()
            )
        for name in chosen.formats:
            for mode in chosen.modes:
                random = q.RandomBits(1, 2, start // STEP) if "stochastic" in mode else None
                got = q.quantize(x, name, mode, random=random)
                with kernels.disabled():
                    expected = q.quantize(x, name, mode, random=random)
                wrong[f"{name} {mode}"] += int(
                    (expected.view(np.uint32) != got.view(np.uint32)).sum()
                )
    for what, count in wrong.items():
        print(f"{what}: {count} differ" if count else f"{what}: equal")
    print(
        f"{last - first:,} numbers, kernels by {cpu.instruction_set()}, {time.time() - began:.0f} s"
    )
    return int(any(wrong.values()))


if __name__ == "__main__":
    sys.exit(main())
