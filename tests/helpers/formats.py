"""Formats without a name, and a user's own, that the tests of every format take beside those with a
name.
"""

from __future__ import annotations

import dataclasses
import math

import qemu_swalp as q


@dataclasses.dataclass(frozen=True)
class Square(q.TableFormat, family="square_test"):
    """A user's own table: squares in two's complement order, NaN in the place that is left."""

    word: int

    @property
    def table(self) -> list[float]:
        positive = [k * k / 4 for k in range(2 ** (self.word - 1))]
        return [*positive, math.nan, *(-v for v in reversed(positive[1:]))]


@dataclasses.dataclass(frozen=True)
class Signs(q.TableFormat, family="signs_test"):
    """A user's own table with everything that a table can have: both zeros, infinities, several
    NaN, equal codes.
    """

    table = (0.0, 0.5, 0.5, 3.0, math.inf, math.nan, -math.nan, 7.0, -0.0, -0.5, -3.0, -math.inf)
    overflow = "infinity"


@dataclasses.dataclass(frozen=True)
class Tapered(q.BinadeFormat, family="tapered_every_test"):
    """A user's own format by its quantum."""

    fraction: int

    @property
    def max(self) -> float:
        return 2.0 ** (2 * self.fraction)

    def quantum(self, binade, xp):  # type: ignore[no-untyped-def]
        return xp.maximum(
            binade - xp.maximum(self.fraction - xp.abs(binade) // 2, 0), -2 * self.fraction
        )


OWN = ["square_test<5>", "signs_test<>", "tapered_every_test<3>"]
PARAMETRIZED = [
    "fixed<8,6,symmetric>",
    "fixed<6,2,unsigned>",
    "fixed<4,-3>",
    "float<4,3,subnormals=false>",
    "float<3,2,signed=false>",
    "float<3,0,specials=finite>",
    "float<2,2,zero=false>",
    "codebook<-3,0.1,0.5,0.7,40>",
    "codebook<2,-1.5,0.5>",
    "p3109_k3p1ue",
    "p3109_k5p2uf",
    "p3109_k6p1se",
    "p3109_k6p6ue",
    "p3109_k16p6se",
    "posit<2,2>",
    "posit<3,0>",
    "posit<6,1>",
    "posit<8,2,overflow=saturate>",
    "takum2",
    "takum_linear5",
    "takum11",
    "takum_linear13",
    "logarithmic<3,0>",
    "logarithmic<6,2,midpoint=arithmetic>",
    "logarithmic<7,4,bias=100,dtype=float64>",
]
FAR_APART = ("takum8", "takum_linear5")
"""Their neighbours are too far apart for stochastic rounding."""
RULED = [
    f"block<{element},axis=-1,size=4,scale=e8m0fnu,rule={rule}>"
    for element in ("e4m3fn", "e2m1fn", "e2m3fn", "fixed<6,4,symmetric>")
    for rule in ("floor", "ceil", "rceil", "even")
]
OTHERS = [
    "int<8,zero_point,axis=0>",
    "int<4,zero_point,axis=-1,size=3>",
    "int<8,axis=0,scale=bf16>",
    "block<e2m1fn,axis=-1,size=4,scale=e4m3fn>",
    "block<e2m1fn,axis=-1,size=4,scale=e4m3fn,second=float<8,23>>",
    "block<e4m3fn,axis=(0,1),size=(2,3),scale=float<8,23>>",
]
OWN_BLOCKS = [
    "block<tapered_every_test<3>,axis=-1,size=4>",
    "block<tapered_every_test<2>,axis=0,scale=bf16>",
    "block<p3109_k5p2se,axis=-1,size=3,scale=e5m2,second=float<8,23>>",
]
