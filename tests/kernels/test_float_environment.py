"""A thread whose float environment flushes subnormals to zero gets the same bits, by kernels and by
the reference implementation, and has its environment back afterwards.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import qemu_swalp as q
from qemu_swalp import kernels
from qemu_swalp.kernels import set_num_threads

FORMATS = (
    "bf16",
    "float<8,12>",
    "posit16",
    "bfp<8,axis=0>",
    "mxfp4",
    "int<8,axis=1>",
    "int<4,zero_point,axis=1>",
    "nvfp4",
    "block<nf4,axis=-1,size=32,scale=float<8,23>>",
    "block<posit8,axis=-1,size=32,scale=e8m0fnu,top=1>",
    "block<e2m1fn,axis=-1,size=16,scale=e4m3fn,second=float<8,23>,rule=four_over_six>",
)
FLUSHING = """
import json, sys
import torch
assert torch.set_flush_denormal(True)
from qemu_swalp import kernels
from tests.kernels import test_float_environment as tests
if sys.argv[1] == "reference":
    with kernels.disabled():
        found = tests.digests()
else:
    found = tests.digests()
print(json.dumps([found, tests.flushes()]))
"""


def rows(dtype: Any) -> np.ndarray:
    """Rows of subnormals, and of numbers about as small."""
    info = ml_dtypes.finfo(dtype)
    word = np.dtype(f"u{np.dtype(dtype).itemsize}")
    rng = np.random.default_rng(0)
    words = rng.integers(0, 4 << info.nmant, (16, 96)).astype(word)
    words[::2] &= word.type((1 << info.nmant) - 1)
    signs = rng.integers(0, 2, words.shape).astype(word) << word.type(info.bits - 1)
    numbers: np.ndarray = (words | signs).view(dtype)
    return numbers


def digests() -> dict[str, str]:
    """Of results by NumPy and PyTorch, on one thread and on two."""
    import torch

    found: dict[str, str] = {}
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16, np.float64):
        x = rows(dtype)
        name = np.dtype(dtype).name
        from_numpy = torch.from_numpy(x.view(f"i{x.itemsize}"))
        tensor = from_numpy.view(getattr(torch, name))
        for format in FORMATS:
            for rounding, threads in product(("nearest_even", "stochastic"), (1, 2)):
                random = q.RandomBits(3) if rounding == "stochastic" else None
                set_num_threads(threads)
                try:
                    got = q.quantize(x, format, rounding, random=random)
                except TypeError:  # of a format that the dtype does not represent
                    continue
                other = q.quantize(tensor, format, rounding, random=random)
                key = f"{name} {format} {rounding}"
                for array in (got, other.view(from_numpy.dtype).numpy()):
                    digest = hashlib.sha256(array.tobytes()).hexdigest()
                    assert found.setdefault(key, digest) == digest, (key, threads)
    return found


def flushes() -> bool:
    """Whether the environment of this thread flushes."""
    return float(np.float32(2.0**-149) * np.ones(1, np.float32)[0]) == 0.0


@pytest.mark.parametrize("by", ["kernels", "reference"])
def test_flushing_changes_no_bit(by: str) -> None:
    command = [sys.executable, "-c", FLUSHING, by]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    got, still_flushes = json.loads(ended.stdout)
    threads = kernels.get_num_threads()
    try:
        wanted = digests()
        assert len(wanted) > 60
        assert got == wanted
    finally:
        set_num_threads(threads)
    assert still_flushes
