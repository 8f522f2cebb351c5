"""Scaled block formats: an element grid, a scale that each block shares, and the shape of a block
(clauses BLK).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Literal, cast

from .._util.checks import check_bool, check_choice, check_int
from .base import FAMILIES, Format, spell
from .binade import BinadeFormat, binade
from .fixed import Fixed
from .floating import Float
from .scale import POWER_RULES, PUBLISHED_RULES, RULES, Exponent, ScaleFormat, powers

EXPONENT8 = Exponent(8)
FLOAT32 = Float(8, 23)


@dataclass(frozen=True)
class Block(Format, family="block"):
    """An element grid under a scale that each block of an array shares.

    Parameters
    ----------
    element : any `BinadeFormat`.
    axis : the axis or axes that blocks are laid out along; None: the whole array is one block.
        Without `size`, each index of the axes has a scale of its own (and an array all of whose
        axes are named is one block).
    size : blocks are runs of so many elements along a single axis, tiles along several (one size
        for all axes or one for each), at each index of the other axes. The last of each row may be
        shorter.
    scale : format of the scales: `Exponent(b)` (powers of two, b-bit signed exponents; default 8),
        another format of powers of two such as e8m0fnu, or any float format.
    rule : how a block's scale follows from amax, its greatest finite magnitude (or from its
        extremes). Powers of two (default "floor"), emax being ⌊log2 element.max⌋: "floor" 2^(⌊log2
        amax⌋ - emax), "ceil" 2^(⌈log2 amax⌉ - emax), "rceil" 2^⌈log2(amax/element.max)⌉, "even":
        floor of amax rounded to the element's precision. Other scales: "nearest" (default)
        amax/element.max, rounded to the scale's format; "minmax" (max - min)/(2^W - 1) with a zero
        point, for elements fixed<W,0,unsigned>; "transformer_engine" and "torchao", the float32
        steps by which these libraries make NVFP4.
    second : None, or float<8,23>: a scale of the array above those of the blocks (rules "nearest"
        and the published).

    A block with a NaN is NaN throughout where the scale's format has a NaN and the element's has
    none; otherwise NaN and infinities stay alone (clause BLK-4). Sources: OCP Microscaling Formats
    (MX) 1.0, section 6.3, for "floor"; torchao's MX formats for "ceil", "rceil" and "even".
    bm8_e2m5 and bm8_e4m3 are Block Minifloat (Fox et al., ICLR 2021) after its authors' code: bias
    2^(E-1), subnormals, no special values. That code clips ⌊log2 amax⌋ to 8 bits before it takes
    emax off, here S is clipped; the 48×48 tiles are what others report of the paper.

    >>> from qemu_swalp import parse, quantize
    >>> quantize([[1.0, 0.013], [64.0, 0.7]], bfp(8, axis=0)).tolist()
    [[1.0, 0.015625], [64.0, 1.0]]
    >>> quantize([1.0, 0.013, 64.0, 0.7], Block(parse("e2m1fn"), axis=-1, size=2, scale=parse("e8m0fnu"))).tolist()
    [1.0, 0.0, 64.0, 0.0]
    >>> quantize([1.0, 0.013, 100.0, 0.7], Block(parse("e4m3fn"), axis=-1, size=2, scale=parse("float<8,23>"))).tolist()
    [1.0, 0.0133928582072258, 100.0, 0.7254464030265808]
    """

    element: BinadeFormat
    axis: tuple[int, ...] | None = None
    size: int | tuple[int, ...] | None = None
    scale: ScaleFormat = EXPONENT8
    rule: str = None  # type: ignore[assignment]
    second: BinadeFormat | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.element, BinadeFormat):
            raise TypeError(
                "element must be a format with evenly spaced binades, such as Fixed(8, 6) or"
                f" Float(4, 3), got {self.element!r}"
            )
        self._check_geometry()
        check_scale("scale", self.scale, (Exponent, BinadeFormat))
        if self.second not in (None, FLOAT32):
            raise ValueError(
                f"second must be float<8,23> or None, got {self.second!r}: two levels are float32"
                " steps"
            )
        if self.rule is None:
            object.__setattr__(self, "rule", self.derived_defaults()["rule"])
        check_choice("rule", self.rule, RULES)
        self._check_rule()

    def _check_geometry(self) -> None:
        if self.axis is not None:
            axes = tuple(self.axis) if isinstance(self.axis, Iterable) else (self.axis,)
            for a in axes:
                check_int("axis", a, -64, 63)
            if not axes or len(set(axes)) < len(axes):
                raise ValueError(
                    f"axis must name each axis once, got {self.axis!r}; leave it out for a single"
                    " block"
                )
            object.__setattr__(self, "axis", axes)
        if self.size is None:
            return
        sizes = tuple(self.size) if isinstance(self.size, Iterable) else (self.size,)
        for k in sizes:
            check_int("size", k, 1, 2**31 - 1)
        if self.axis is None:
            raise ValueError(
                f"size={self.size} needs one axis or more to run along, as in axis=-1; got"
                " axis=None"
            )
        if len(sizes) not in (1, len(self.axis)):
            raise ValueError(
                f"size must be one integer, or one for each of the {len(self.axis)} axes"
                f" {self.axis}, got {self.size!r}"
            )
        object.__setattr__(self, "size", sizes[0] if len(set(sizes)) == 1 else sizes)

    def _check_rule(self) -> None:
        rule, legal = (
            self.rule,
            POWER_RULES if self.powers else tuple(r for r in RULES if r not in POWER_RULES),
        )
        if rule not in legal:
            kind = "that are powers of two" if self.powers else "of a format with significand bits"
            raise ValueError(
                f"rule={rule!r} does not go with scale={self.scale}: scales {kind} have the rules "
                f"{', '.join(legal)}"
            )
        if self.second is not None and rule not in ("nearest", *PUBLISHED_RULES):
            raise ValueError(
                f"rule={rule!r} has no second scale, got second={self.second}; leave it out, or use"
                " rule='nearest'"
            )
        if rule == "minmax" and self.element != Fixed(self.element.bits, 0, signed=False):
            raise ValueError(
                f"rule='minmax' needs unsigned integers, as in element=Fixed({self.element.bits},"
                f" 0, signed=False), got {self.element}"
            )
        if rule in PUBLISHED_RULES and (self.element, self.scale, self.second) != _nvfp4():
            raise ValueError(
                f"rule={rule!r} is NVFP4: element=e2m1fn, scale=e4m3fn, second=float<8,23>; got "
                f"{self.element}, {self.scale}, {self.second}; use rule='nearest' for other formats"
            )

    def derived_defaults(self) -> dict[str, object]:
        return {"rule": "floor" if self.powers else "nearest"}

    @property
    def bits(self) -> int:
        return self.element.bits

    @property
    def powers(self) -> tuple[int, int] | None:
        """(least, greatest) exponent of the scales, where they are powers of two; else None."""
        return powers(self.scale)

    @property
    def spreads_nan(self) -> bool:
        """Whether a block with a NaN is NaN throughout (clause BLK-4)."""
        return self.scale.has_nan and not self.element.has_nan

    @property
    def idempotent(self) -> bool:
        element = self.element
        if not self.powers or element.min != -element.max or element.overflow != "saturate":
            return False
        if self.rule == "floor":
            return True
        top = binade(element.max)
        quanta = [element.quantum_at(e) for e in range(binade(element.min_positive), top + 1)]
        doubles = all(b <= a + 1 for a, b in pairwise(quanta))
        return doubles and (
            self.rule != "even" or element.max == 2.0 ** (top + 1) - 2.0 ** quanta[-1]
        )

    def axes_of(self, ndim: int) -> dict[int, int]:
        """The named axes in an array of `ndim` dimensions, each with its size (1 where no size is
        given).
        """
        sizes = (
            self.size if isinstance(self.size, tuple) else (self.size or 1,) * len(self.axis or ())
        )
        found: dict[int, int] = {}
        for a, size in zip(self.axis or (), sizes, strict=True):
            if not -ndim <= a < ndim:
                raise ValueError(
                    f"{self} names axis {a}, which an array of {ndim} dimensions does not have"
                )
            if a % ndim in found:
                raise ValueError(
                    f"{self} names axis {a % ndim} of an array of {ndim} dimensions twice"
                )
            found[a % ndim] = size
        return found

    def extents(self, ndim: int) -> tuple[int | None, ...]:
        """Length of a block along each axis of an array of `ndim` dimensions; None: the whole axis
        (clause BLK-2).

        >>> bfp(8, axis=0).extents(2), bfp(8, axis=(0, 1), size=2).extents(2), bfp(8).extents(2)
        ((1, None), (2, 2), (None, None))
        """
        axes = self.axes_of(ndim)
        if self.size is None and len(axes) == ndim:
            axes = {}
        other = None if self.size is None else 1
        return tuple(axes.get(a, other) for a in range(ndim))

    def canonical_string(self) -> str:
        for shorthand in (Bfp.of(self), Int.of(self)):
            if shorthand is not None:
                return shorthand.canonical_string()
        return super().canonical_string()


def check_scale(name: str, format: object, kinds: tuple[type, ...]) -> None:
    """TypeError or ValueError unless the format can be that of a scale."""
    if not isinstance(format, kinds):
        raise TypeError(
            f"{name} must be a format such as Float(8, 23), or parse('e8m0fnu'), got {format!r}"
        )
    if isinstance(format, BinadeFormat) and (
        format.precision > 24 or format.bits > 31 + isinstance(format, Float)
    ):
        raise ValueError(
            f"{name} may have up to 24 significant bits and a code of 32, got {format}, which has "
            f"{format.precision} and {format.bits}"
        )


@dataclass(eq=False, repr=False)
class Bfp:
    """The parameters of `bfp`."""

    word: int
    range: str = "symmetric"
    axis: tuple[int, ...] | None = None
    size: int | tuple[int, ...] | None = None
    scale_bits: int = 8

    def canonical_string(self) -> str:
        return spell("bfp", self, {})

    @staticmethod
    def of(format: Block) -> Bfp | None:
        """The parameters with which `bfp` makes the format, if there are any."""
        element = format.element
        if (
            not isinstance(element, Fixed)
            or not isinstance(format.scale, Exponent)
            or format.rule != "floor"
        ):
            return None
        if (
            element != Fixed(element.word, element.word - 2, element.signed, element.symmetric)
            or not element.signed
        ):
            return None
        range_ = "symmetric" if element.symmetric else "twos"
        return Bfp(element.word, range_, format.axis, format.size, format.scale.exponent_bits)


def bfp(
    word: int,
    range: Literal["symmetric", "twos"] = "symmetric",
    axis: int | Iterable[int] | None = None,
    size: int | Iterable[int] | None = None,
    scale_bits: int = 8,
) -> Block:
    """Block floating point: `word`-bit integers under a shared exponent of `scale_bits` bits.

    `range="symmetric"` (default) is idempotent; "twos" is the range [-2^(W-1), 2^(W-1) - 1] of Yang
    et al. 2019 (SWALP), section 3.2. `axis=None` is their big-block design, `axis=0` their
    small-block design. The other parameters are those of `Block`. Other block floating points are
    the same with another geometry, under these names:

    - msfp12 … msfp16, Microsoft Floating Point (Darvish Rouhani et al., NeurIPS 2020): sign and 3 …
      7 magnitude bits under an 8-bit exponent shared by runs of 16 along the last axis. How the
      paper's hardware rounds and what it does beyond the greatest magnitude could not be
      established: here it is as the caller says, and saturation.
    - hbfp8, hbfp12, hybrid block floating point (Drumond et al., NeurIPS 2018): 8 or 12 bits with
      the sign, a 10-bit exponent, 24×24 tiles over the last two axes. The authors' emulator takes
      ⌈log2(amax + 1e-8)⌉ for the exponent, which is ⌊log2 amax⌋ + 1 except near powers of two and
      for tiny numbers; here it is always that.
    """
    check_int("word", word, 2, 32)
    check_choice("range", range, ("symmetric", "twos"))
    check_int("scale_bits", scale_bits, 2, 16)
    element = Fixed(word, word - 2, symmetric=range == "symmetric")
    return Block(element, axis, size, Exponent(scale_bits))  # type: ignore[arg-type]


@dataclass(eq=False, repr=False)
class Int:
    """The parameters of `integer`."""

    word: int
    zero_point: bool = False
    axis: tuple[int, ...] | None = None
    size: int | tuple[int, ...] | None = None
    scale: BinadeFormat = FLOAT32

    def canonical_string(self) -> str:
        return spell("int", self, {})

    @staticmethod
    def of(format: Block) -> Int | None:
        """The parameters with which `integer` makes the format, if there are any."""
        element, zero_point = format.element, format.rule == "minmax"
        if (
            format.second is not None
            or format.rule not in ("nearest", "minmax")
            or not isinstance(element, Fixed)
        ):
            return None
        if element != _integers(element.word, zero_point):
            return None
        return Int(
            element.word, zero_point, format.axis, format.size, cast(BinadeFormat, format.scale)
        )


def integer(
    word: int,
    zero_point: bool = False,
    axis: int | Iterable[int] | None = None,
    size: int | Iterable[int] | None = None,
    scale: BinadeFormat = FLOAT32,
) -> Block:
    """`word`-bit integers (2..16) under a float scale: for the array, for each index of an axis, or
    in groups.

    Symmetric: n·s with |n| ≤ 2^(word-1) - 1 and s = amax/(2^(word-1) - 1). `zero_point=True`: (n -
    z)·s with n and z from 0 to 2^word - 1 and s = (max - min)/(2^word - 1), zero being one of the
    numbers (clauses BLK-8 and BLK-10). The other parameters are those of `Block`.

    >>> from qemu_swalp import parse, quantize
    >>> quantize([0.0, 0.5, 1.27], integer(8)).tolist(), str(integer(4, zero_point=True, axis=-1, size=128))
    ([0.0, 0.5, 1.2699999809265137], 'int<4,zero_point,axis=-1,size=128>')
    """
    check_int("word", word, 2, 16)
    check_bool("zero_point", zero_point)
    rule = "minmax" if zero_point else "nearest"
    return Block(_integers(word, zero_point), axis, size, scale, rule)  # type: ignore[arg-type]


@cache
def _nvfp4() -> tuple[BinadeFormat, BinadeFormat, BinadeFormat]:
    """Element, scale and second scale of the published rules."""
    return Float(2, 1, specials="finite"), Float(4, 3, specials="fn"), FLOAT32


def _integers(word: int, zero_point: bool) -> Fixed:
    return Fixed(word, 0, signed=not zero_point, symmetric=not zero_point)


FAMILIES["bfp"] = bfp
FAMILIES["int"] = integer
