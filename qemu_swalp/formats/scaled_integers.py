"""Integers under a shared scale, by shorter names than `block`: `bfp` and `int`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast

from .._util.checks import check_bool, check_choice, check_int
from .base import define_family
from .binade import BinadeFormat
from .block import FLOAT32, SHORTHANDS, Block
from .block_geometry import Axes, Sizes
from .fixed import Fixed
from .scale import Exponent
from .strings import string_with_parameters


def bfp(
    word: int,
    range: Literal["symmetric", "twos"] = "symmetric",
    axis: int | str | Iterable[int | str] | None = None,
    size: int | Iterable[int] | None = None,
    scale_bits: int = 8,
) -> Block:
    """Block floating point: `word`-bit integers under a shared exponent of `scale_bits` bits.

    `range="symmetric"` (default) is idempotent; "twos" is the two's-complement range
    [-2^(W-1), 2^(W-1) - 1] of Yang et al. 2019 (SWALP), section 3.2. `axis=None` is their big-block
    design, `axis="out"` their small-block design of weights, `axis="batch"` that of activations.
    The other parameters are those of `Block`. Other block floating points are the same with another
    geometry, under these names:

    - msfp12 … msfp16, Microsoft Floating Point (Darvish Rouhani et al., NeurIPS 2020): sign and 3 …
      7 magnitude bits under an 8-bit exponent shared by runs of 16 along the last axis. How the
      paper's hardware rounds and what it does beyond the greatest magnitude could not be
      established: here it is as the caller says, and saturation.
    - hbfp8, hbfp12, hybrid block floating point (Drumond et al., NeurIPS 2018): 8 or 12 bits with
      the sign, a 10-bit exponent, 24×24 tiles over the last two axes. The authors' emulator uses
      ⌈log2(amax + 1e-8)⌉ for the exponent, which is ⌊log2 amax⌋ + 1 except near powers of two and
      for tiny numbers; here it is always that.
    """
    check_int("word", word, 2, 32)
    check_choice("range", range, ("symmetric", "twos"))
    check_int("scale_bits", scale_bits, 2, 16)
    element = Fixed(word, word - 2, symmetric=range == "symmetric")
    return Block(element, axis, size, Exponent(scale_bits))  # type: ignore[arg-type]


def integer(
    word: int,
    zero_point: bool = False,
    axis: int | str | Iterable[int | str] | None = None,
    size: int | Iterable[int] | None = None,
    scale: BinadeFormat = FLOAT32,
) -> Block:
    """`word`-bit integers (2..16) under a float scale: of the array, of each index of an axis, or
    of groups.

    Symmetric: n·s with |n| ≤ 2^(word-1) - 1 and s = amax/(2^(word-1) - 1). `zero_point=True` is
    asymmetric (affine) quantization: (n - z)·s with n and z from 0 to 2^word - 1 and s = (max -
    min)/(2^word - 1). Zero is one of the numbers (clauses BLK-8 and BLK-10). The other parameters
    are those of `Block`.

    >>> import numpy as np
    >>> from qemu_swalp import quantize
    >>> quantize(np.float32([0.0, 0.5, 1.27]), integer(8)).tolist()
    [0.0, 0.5, 1.2699999809265137]
    >>> str(integer(4, zero_point=True, axis=-1, size=128))
    'int<4,zero_point,axis=-1,size=128>'
    """
    check_int("word", word, 2, 16)
    check_bool("zero_point", zero_point)
    rule = "minmax" if zero_point else "nearest"
    return Block(_integers(word, zero_point), axis, size, scale, rule)  # type: ignore[arg-type]


def _integers(word: int, zero_point: bool) -> Fixed:
    return Fixed(word, 0, signed=not zero_point, symmetric=not zero_point)


@dataclass(eq=False, repr=False)
class _BfpParameters:
    word: int
    range: str = "symmetric"
    axis: Axes = None
    size: Sizes = None
    scale_bits: int = 8


def _as_bfp(format: Block) -> str | None:
    """The string of the parameters with which `bfp` makes the format, if there are any."""
    element, scale = format.element, format.scale
    if not (isinstance(element, Fixed) and isinstance(scale, Exponent) and format.rule == "floor"):
        return None
    word = element.word
    if not element.signed or element != Fixed(word, word - 2, symmetric=element.symmetric):
        return None
    range_ = "symmetric" if element.symmetric else "twos"
    parameters = _BfpParameters(word, range_, format.axis, format.size, scale.exponent_bits)
    return string_with_parameters("bfp", parameters, {})


@dataclass(eq=False, repr=False)
class _IntParameters:
    word: int
    zero_point: bool = False
    axis: Axes = None
    size: Sizes = None
    scale: BinadeFormat = FLOAT32


def _as_int(format: Block) -> str | None:
    """The string of the parameters with which `integer` makes the format, if there are any."""
    element, zero_point = format.element, format.rule == "minmax"
    if format.second is not None or format.rule not in ("nearest", "minmax"):
        return None
    if format.nonfinite != format.derived_defaults()["nonfinite"]:
        return None
    if not isinstance(element, Fixed) or element != _integers(element.word, zero_point):
        return None
    scale = cast(BinadeFormat, format.scale)
    parameters = _IntParameters(element.word, zero_point, format.axis, format.size, scale)
    return string_with_parameters("int", parameters, {})


define_family("bfp", bfp)
define_family("int", integer)
SHORTHANDS.extend((_as_bfp, _as_int))
