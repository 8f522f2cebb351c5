"""Formats, rules and arrays that lead the kernels through every path."""

from __future__ import annotations

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

import qemu_swalp as q
from qemu_swalp.rounding import DETERMINISTIC

DTYPES = ("float16", "bfloat16", "float32", "float64")
ROUNDINGS = (
    *DETERMINISTIC,
    "stochastic",
    "stochastic_a<5>",
    "stochastic_b",
    "stochastic_b<8>",
    "stochastic_c",
    "stochastic_c<31>",
)
POLICIES = ("saturate", "propagate", "infinity", "nan")


@dataclasses.dataclass(frozen=True)
class Uneven(q.BinadeFormat, family="uneven_kernel_test"):
    """Its quanta follow no rule: the kernels read them from a table."""

    fraction: int

    @property
    def max(self) -> float:
        return 2.0 ** (2 * self.fraction)

    def quantum(self, binade: Any, xp: Any) -> Any:
        kept = xp.where(binade < 0, 1, self.fraction + 0 * binade) - xp.abs(binade) // 2
        return xp.maximum(binade - xp.minimum(xp.maximum(kept, 0), 5), -2 * self.fraction)


ELEMENTS = (
    "fixed<8,6,symmetric>",
    "fixed<12,5,unsigned>",
    "fixed<24,40>",
    "float<4,3,subnormals=false>",
    "float<4,2,bias=20>",
    "float<5,2,unsigned,zero=false,specials=fn>",
    "float<8,12>",
    "uneven_kernel_test<4>",
    "p3109_k6p3ue",
    "p3109_k5p1se",
    "codebook<-3,0.1,0.5,0.7,40>",
    "codebook<-1,1>",
    "posit<6,1>",
)
BLOCKS = (
    "bfp<8,axis=0>",
    "bfp<8,axis=-1>",
    "bfp<4,axis=1,size=7>",
    "bfp<6,range=twos,axis=0,size=3>",
    "block<e4m3fn,axis=(0,1),size=(16,24),scale=bf16>",
    "block<e2m1fn,axis=0,size=32,scale=e8m0fnu,rule=ceil>",
    "block<e3m2fn,axis=-1,size=32,rule=even,scale=e8m0fnu>",
    "block<e3m2fn,axis=-1,size=32,rule=rceil>",
    "block<e5m2,axis=-1,size=5>",
    "block<uneven_kernel_test<4>,axis=0>",
    "int<4,zero_point,axis=-1,size=17>",
    "int<8,axis=0>",
    "block<e4m3fn,axis=-1,size=16,scale=e4m3fn,second=float<8,23>>",
)

FEW_FORMATS = (
    "e4m3fn",
    "e5m2",
    "nf4",
    "bfp8",
    "bfp<8,axis=0>",
    "bfp<8,axis=-1>",
    "mxfp4",
    "int8",
    "nvfp4",
    "block<e4m3fn,axis=(0,1),size=13>",
    "int<4,zero_point,axis=-1,size=17>",
    "block<e2m1fn,axis=0,size=32,scale=e8m0fnu>",
)
"""One of each kind that the kernels tell apart."""
ACCUMULATIONS = (
    "fp16/nearest_even",
    "float<6,9>/stochastic; chunk=5",
    "fp16/nearest_even; group=2",
    "e5m2/to_odd; product=e5m2/stochastic; chunk=4; total=float<8,20>/stochastic_c<5>",
    "nf4/stochastic; product=posit8/nearest_even",
    "bf16/stochastic_a<14>",
)


def formats() -> list[str]:
    return [*q.names(), *ELEMENTS, *BLOCKS]


@st.composite
def blocks_of(draw: st.DrawFn, rank: int) -> q.Block:
    """Block formats of arrays with so many axes."""
    axes = draw(st.lists(st.integers(0, rank - 1), min_size=1, max_size=rank, unique=True))
    size = draw(st.one_of(st.none(), st.integers(1, 5), st.just(tuple(range(2, 2 + len(axes))))))
    pairs = [("fixed<4,2>", "exponent<8>"), ("e2m1fn", "e8m0fnu"), ("e4m3fn", "bf16")]
    element, scale = draw(st.sampled_from(pairs))
    return q.Block(q.parse(element), tuple(axes), size, q.parse(scale))


def array(dtype: str, shape: tuple[int, int] = (48, 77)) -> np.ndarray:
    """Random bits, subnormals, ordinary numbers, edges; some blocks small or without any of the
    special ones.
    """
    rng = np.random.default_rng(7)
    count = shape[0] * shape[1]
    width = {"float16": 16, "bfloat16": 16, "float32": 32, "float64": 64}[dtype]
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    words = rng.integers(0, 2**64, count, dtype=np.uint64) >> np.uint64(64 - width)
    x = words.astype(f"uint{width}").view(kind)
    ordinary = (rng.standard_normal(count) * 2.0 ** rng.integers(-12, 10, count)).astype(kind)
    tiny = (rng.integers(0, 2**12, count)).astype(f"uint{width}").view(kind)
    edges = np.array(
        [
            0,
            -0.0,
            np.inf,
            -np.inf,
            np.nan,
            448,
            464,
            465,
            57344,
            61440,
            2**-9,
            2**-10,
            1.5,
            2.5,
            6,
            7,
        ]
    )
    edges = edges.astype(kind)
    kinds = rng.integers(0, 8, count)
    mixed = np.where(kinds < 2, x, np.where(kinds == 2, tiny, ordinary)).reshape(shape)
    mixed[: shape[0] // 2] = ordinary.reshape(shape)[: shape[0] // 2]
    mixed[1], mixed[2, ::2] = tiny[: shape[1]], -tiny[: (shape[1] + 1) // 2]
    mixed[3], mixed[4, 3:9] = 0, np.nan
    mixed[5, : len(edges)] = mixed[-1, -len(edges) :] = edges
    return np.ascontiguousarray(mixed)


def bits(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).view(f"u{x.dtype.itemsize}")
