"""What is measured: formats, roundings, arrays."""

from __future__ import annotations

import numpy as np

import qemu_swalp as q

CASES = {
    "e4m3fn": "e4m3fn",
    "bf16": "bf16",
    "fixed": "fixed<8,6>",
    "posit8": "posit8",
    "nf4": "nf4",
    "bfp8 per row": "bfp<8,axis=0>",
    "bfp8 per column": "bfp<8,axis=1>",
    "bfp8 per tensor": "bfp8",
    "mxfp8_e4m3": "mxfp8_e4m3",
    "mxfp4": "mxfp4",
    "nvfp4": "nvfp4",
    "int8 per row": "int<8,axis=0>",
}
"""Name of a case → format."""

ROUNDINGS = {"nearest": "nearest_even", "stochastic": "stochastic"}
"""Name in the tables → rounding."""

COLUMNS = 1024


def matrix(exponent: int) -> np.ndarray:
    """2^exponent normally distributed float32, in rows of 1024."""
    x = np.random.default_rng(0).standard_normal(1 << exponent, np.float32)
    return x.reshape(-1, min(COLUMNS, 1 << exponent))


def bits_of(rounding: str) -> q.RandomBits | None:
    """The random bits of a rounding in `ROUNDINGS`."""
    return q.RandomBits(seed=1, stream=2, step=3) if rounding == "stochastic" else None
