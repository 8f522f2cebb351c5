"""Scaled block formats: an element grid, a scale that each block shares, and the shape of a block
(clauses BLK).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Literal

import numpy as np

from .._util.checks import check_choice
from .axis_words import Axis, Layout, resolved, words_in
from .base import OVERFLOWS, Format, Overflow
from .binade import BinadeFormat, binade
from .block_geometry import (
    Axes,
    Sizes,
    block_extents,
    checked_axes,
    checked_sizes,
    sizes_by_axis,
)
from .fixed import Fixed
from .floating import Float
from .parser import FORMAT_PARAMETERS, parse
from .scale import (
    GGML,
    GGML_MINIMUM,
    GGML_RULES,
    GGML_SIGNED,
    POWER_RULES,
    RULES,
    SEARCH_RULES,
    VENDOR_RULES,
    Exponent,
    ScaleFormat,
    check_scale,
    exponent_range,
)
from .scale_rules import OWN_RULES
from .table import TableFormat

EXPONENT8 = Exponent(8)
FLOAT32 = Float(8, 23)

SHORTHANDS: list[Callable[[Block], str | None]] = []
"""Functions that write a block format by a shorter family, such as `bfp`, if that is possible."""


OWN = "; a rule of your own: call register_scale_rule first, for the command line in a --load file"


@dataclass(frozen=True)
class Block(Format, family="block"):
    """An element grid under a scale that each block of an array shares.

    Parameters
    ----------
    element : a `BinadeFormat` or a `TableFormat`, such as nf4, posits, takums and logarithmic
        formats (clause BLK-15); like the other formats here, also by its string.
    axis : the axis or axes that blocks are laid out along; None: the whole array is one block.
        Without `size`, each index of the axes has a scale of its own (and an array all of whose
        axes are named is one block). An axis is a number, or one of the words "out", "in", "sum"
        and "batch" (`AXIS_WORDS`), which stand for other numbers in each layer's layout. `resolve`
        puts the numbers in, and recipes are resolved by the adapters.
    size : blocks are runs of so many elements along a single axis, tiles along several (one size
        for all axes or one for each), at each index of the other axes. The last of each row may be
        shorter.
    scale : format of the scales: `Exponent(b)` (powers of two, b-bit signed exponents; default 8),
        another format of powers of two such as e8m0fnu, or any float format.
    rule : how a block's scale follows from amax, its greatest finite magnitude. With emax =
        ⌊log2 top⌋, scales that are powers of two have "floor" (default) 2^(⌊log2 amax⌋ - emax),
        "ceil" 2^(⌈log2 amax⌉ - emax), "rceil" 2^⌈log2(amax/top)⌉. "even" is the floor of amax
        rounded to the element's precision. Other scales have "nearest" (default) amax/top, rounded
        to the scale's format. "minmax" is asymmetric (affine) quantization with a zero point and
        the scale (max - min)/(2^W - 1), for elements fixed<W,0,unsigned>. The vendor rules
        "transformer_engine" and "torchao" are the float32 operations by which these libraries make
        NVFP4. "mse" chooses by the least squared error of the block (clause BLK-17). It tries the
        scales of "nearest" for nine tops up to twice as great, or "floor" and the powers beside it.
        "four_over_six" chooses so between amax brought to 6 and to 4 (Cook et al. 2025, arXiv
        2512.02010). "quest" is 2.92/top of the block's deviation: in e2m1fn the clip of least error
        of normal numbers, by the authors' code of Quartet (Castro et al. 2025, arXiv 2505.14669).
        Rules of one's own: `register_scale_rule`. "ggml" divides by amax/top before
        that is rounded to the format of scales, as ggml's q8_0 does:
        `block<fixed<8,0,symmetric>,axis=-1,size=32,scale=fp16,rule=ggml>` with the rounding
        "nearest_away" (clause BLK-18). Its q4_0 and q5_0 are "ggml_signed", whose scale has the
        sign that brings the first greatest element to the end of the integers. Its q4_1 and q5_1
        are "ggml_minimum", integers above the least element. With the rounding "nearest_up" all
        have ggml's bits (clause BLK-19).
    second : format of the global (per-tensor) scale above those of the blocks, float<8,23>; or None
        (scales with significand bits, rules "nearest", "mse", "four_over_six", the vendors').
    top : what the rules bring amax to; default: the greatest magnitude of the elements (of binade
        formats `max`). Posits and takums are precise far below it: `top=1` uses that. A greater one
        clips.
    nonfinite : what infinities and NaN do (clause BLK-13). "block": their block becomes NaN, by a
        scale of NaN (default where the scale's format has a NaN and no infinity: MX, NVFP4).
        "element": they stay as they are at their places (default elsewhere).

    Sources: OCP Microscaling Formats (MX) 1.0, section 6.3, for "floor"; torchao's MX formats for
    "ceil", "rceil" and "even". The formats bm8_e2m5 and bm8_e4m3 are Block Minifloat (Fox et al.,
    ICLR 2021) after its authors' code: bias 2^(E-1), subnormals, no special values. That code clips
    ⌊log2 amax⌋ to 8 bits before it takes emax off, here S is clipped; the 48×48 tiles are what
    others report of the paper.

    >>> import numpy as np
    >>> from qemu_swalp import quantize
    >>> mx = Block("e2m1fn", axis=-1, size=2, scale="e8m0fnu")
    >>> quantize([1.0, 0.013, 64.0, 0.7], mx).tolist()
    [1.0, 0.0, 64.0, 0.0]
    >>> quantize(np.float32([0.01, -0.03, 0.02]), "block<nf4,scale=float<8,23>>").tolist()
    [0.010137457400560379, -0.029999999329447746, 0.021688705310225487]
    >>> scaled_in_float32 = Block("e4m3fn", axis=-1, size=2, scale="float32")
    >>> quantize(np.float32([1.0, 0.013, 100.0, 0.7]), scaled_in_float32).tolist()
    [1.0, 0.0133928582072258, 100.0, 0.7254464030265808]
    """

    element: BinadeFormat | TableFormat
    axis: Axes = None
    size: Sizes = None
    scale: ScaleFormat = EXPONENT8
    rule: str = None  # type: ignore[assignment]
    second: BinadeFormat | None = None
    nonfinite: Literal["element", "block"] = None  # type: ignore[assignment]
    top: float = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        for name in FORMAT_PARAMETERS:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, parse(getattr(self, name)))
        if not isinstance(self.element, BinadeFormat | TableFormat):
            raise TypeError(
                "element must be a format of single numbers, such as Fixed(8, 6), Float(4, 3) or"
                f" a Codebook, got {self.element}"
            )
        object.__setattr__(self, "axis", checked_axes(self.axis))
        object.__setattr__(self, "size", checked_sizes(self.size, self.axis))
        check_scale("scale", self.scale, (Exponent, BinadeFormat))
        if self.second not in (None, FLOAT32):
            raise ValueError(
                "second, the global scale, must be float<8,23> or None, got"
                f" {self.second!r}: it is computed in float32"
            )
        for name, default in self.derived_defaults().items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        self._check_top()
        check_choice("rule", self.rule, (*RULES, *OWN_RULES), OWN)
        self._check_rule()
        check_choice("nonfinite", self.nonfinite, ("element", "block"))
        if self.nonfinite == "block" and not self.scale.has_nan:
            raise ValueError(
                f"nonfinite='block' needs scales with a NaN, such as e8m0fnu, got {self.scale};"
                " use nonfinite='element'"
            )

    def _check_top(self) -> None:
        greatest = self.derived_defaults()["top"]
        top = self.top
        if isinstance(top, bool) or not isinstance(top, int | float):
            raise TypeError(f"top must be a number, got {top!r}")
        normal = 2.0**-126 <= top < 2.0**128
        if top == greatest and not normal and isinstance(self.element, TableFormat):
            raise ValueError(
                f"no scale in float32 brings numbers to {greatest:g}, the greatest magnitude of"
                f" {self.element}; give top= within its normal numbers, such as top=1"
            )
        if top != greatest and (not normal or float(np.float32(top)) != top):
            raise ValueError(
                f"top must be a positive normal number of float32, such as 1 or {self.element}'s"
                f" greatest magnitude {greatest:g}, got {top!r}"
            )
        object.__setattr__(self, "top", float(top))

    def _check_rule(self) -> None:
        rule = self.rule
        powers = (*POWER_RULES, "mse", *OWN_RULES)
        others = tuple(r for r in (*RULES, *OWN_RULES) if r not in POWER_RULES)
        legal = powers if self.powers else others
        if rule not in legal:
            kind = "that are powers of two" if self.powers else "of a format with significand bits"
            raise ValueError(
                f"rule={rule!r} does not go with scale={self.scale}: scales {kind} have the rules "
                f"{', '.join(legal)}"
            )
        if rule == "even" and isinstance(self.element, TableFormat):
            raise ValueError(
                "rule='even' rounds amax to the element's precision, which the table"
                f" {self.element} does not have; use 'floor', 'ceil' or 'rceil'"
            )
        if rule == GGML and isinstance(self.element, TableFormat):
            raise ValueError(
                f"rule='ggml' has elements of binades, got the table {self.element}; use"
                " rule='nearest'"
            )
        if rule == "mse" and not 2.0**-125 <= self.top < 2.0**127:
            raise ValueError(
                "rule='mse' also tries half and twice the top in float32, so that top must be from"
                f" 2^-125 to below 2^127, got {self.top:g}; give such a top=, or use another rule"
            )
        if rule in ("even", "minmax", *VENDOR_RULES) and not self.reaches_max:
            raise ValueError(
                f"rule={rule!r} is defined by the element's greatest value, got top={self.top:g};"
                " leave top= out, or choose another rule"
            )
        if rule == "four_over_six" and (self.element != _nvfp4()[0] or not self.reaches_max):
            raise ValueError(
                f"rule='four_over_six' chooses between 6 and 4 in e2m1fn, got {self.element} and"
                f" top={self.top:g}; use rule='mse'"
            )
        levels = () if self.powers else ("nearest", *SEARCH_RULES, *VENDOR_RULES)
        if self.second is not None and rule not in levels:
            remedy = "scale=e4m3fn" if self.powers else "rule='nearest'"
            raise ValueError(
                f"rule={rule!r} with scale={self.scale} has no global scale, got"
                f" second={self.second}; leave second= out, or use {remedy}"
            )
        self._check_ggml()
        if rule == "minmax" and self.element != Fixed(self.element.bits, 0, signed=False):
            raise ValueError(
                f"rule='minmax' needs unsigned integers, as in element=Fixed({self.element.bits},"
                f" 0, signed=False), got {self.element}"
            )
        if rule in VENDOR_RULES and (self.element, self.scale, self.second) != _nvfp4():
            raise ValueError(
                f"rule={rule!r} is NVFP4: element=e2m1fn, scale=e4m3fn, second=float<8,23>; got "
                f"{self.element}, {self.scale}, {self.second}; use rule='nearest' for other formats"
            )

    def _check_ggml(self) -> None:
        """Refuse what clause BLK-19 does not define."""
        rule, bits = self.rule, self.element.bits
        if not self.in_integers:
            return
        integers = Fixed(bits, 0, signed=rule == GGML_SIGNED) if bits in range(2, 6) else None
        if self.element != integers or not self.reaches_max:
            kind = "fixed<W,0>" if rule == GGML_SIGNED else "fixed<W,0,unsigned>"
            raise ValueError(
                f"rule={rule!r} has elements {kind} with W from 2 to 5 and no top=, got"
                f" {self.element} and top={self.top:g}"
            )
        if not isinstance(self.size, int) or len(self.axis or ()) != 1:
            raise ValueError(
                f"rule={rule!r} has runs along an axis, as in axis=-1, size=32; got"
                f" axis={self.axis}, size={self.size}"
            )
        scale = self.scale
        signed = isinstance(scale, BinadeFormat) and scale.signed and scale.has_zero
        if not signed or scale.bits > 16:
            raise ValueError(
                f"rule={rule!r} has scales with a sign and at most 16 bits, as fp16, got {scale}"
            )
        if self.nonfinite == "block":
            raise ValueError(f"rule={rule!r} has nonfinite='element', got 'block'")

    def derived_defaults(self) -> dict[str, object]:
        in_scale = self.scale.has_nan and not self.scale.has_infinity
        element = self.element
        table = isinstance(element, TableFormat)
        return {
            "top": max(element.max, -element.min) if table else element.max,
            "rule": "floor" if self.powers else "nearest",
            "nonfinite": "block" if in_scale else "element",
        }

    @property
    def bits(self) -> int:
        return self.element.bits

    @property
    def reaches_max(self) -> bool:
        """Whether amax is brought to the greatest magnitude of the elements."""
        return self.top == self.derived_defaults()["top"]

    @property
    def in_float32(self) -> bool:
        """Whether the scales are defined by float32 steps (BLK-9, BLK-11, BLK-18, BLK-19)."""
        return self.second is not None or self.rule in GGML_RULES

    @property
    def in_integers(self) -> bool:
        """Whether elements are integers of float32 steps (clause BLK-19)."""
        return self.rule in (GGML_SIGNED, GGML_MINIMUM)

    @property
    def tells_scales(self) -> bool:
        """Whether the scales follow from the values alone (clauses COD-4, BLK-15, BLK-17)."""
        by_amax = self.rule in POWER_RULES and self.reaches_max
        return by_amax and not isinstance(self.element, TableFormat)

    @property
    def zero_point_bits(self) -> int | None:
        """Bits of a block's zero point, or of its minimum; None where blocks have neither."""
        return {"minmax": self.bits, GGML_MINIMUM: self.scale.bits}.get(self.rule)

    @property
    def powers(self) -> tuple[int, int] | None:
        """(least, greatest) exponent of the scales if they are powers of two; else None."""
        return exponent_range(self.scale)

    def overflow_in_force(self, overflow: Overflow | None) -> str:
        """The policy of a call that names `overflow`, or None (clause BLK-13): "block" where an
        infinity makes its block NaN. ValueError where the format cannot express it.
        """
        if overflow is None:
            if self.nonfinite == "block":
                return "block"
            policy = self.element.overflow
            return "propagate" if policy == "saturate" else policy
        check_choice("overflow", overflow, OVERFLOWS)
        if overflow == "infinity":
            self.element.check_overflow(overflow)
        return overflow

    def element_overflow(self, policy: str) -> str:
        """By which policy finite numbers overflow, given that in force (clause BLK-13)."""
        if policy == "block":
            return self.element.overflow
        alone = policy == "propagate" or (policy == "nan" and not self.element.has_nan)
        return "saturate" if alone else policy

    @property
    def idempotent(self) -> bool:
        element = self.element
        if isinstance(element, TableFormat) or not self.tells_scales:
            return False
        if element.min != -element.max or element.overflow != "saturate":
            return False
        if self.rule == "floor":
            return True
        top = binade(element.max)
        quanta = [element.quantum_at(e) for e in range(binade(element.min_positive), top + 1)]
        doubles = all(b <= a + 1 for a, b in pairwise(quanta))
        return doubles and (
            self.rule != "even" or element.max == 2.0 ** (top + 1) - 2.0 ** quanta[-1]
        )

    @property
    def axis_words(self) -> tuple[str, ...]:
        return words_in(self.axis)

    def resolve(self, layout: Layout | None = None, /, **axes: Axis) -> Block:
        axis, size = resolved(self, self.axis, self.size, layout, axes)
        return self if axis == self.axis else self.replace(axis=axis, size=size)

    def axes_of(self, ndim: int) -> dict[int, int]:
        """The named axes of an array of `ndim` dimensions, each with its size (1 without one)."""
        return sizes_by_axis(self.axis, self.size, ndim, self)

    def extents(self, ndim: int) -> tuple[int | None, ...]:
        """Length of a block along each axis of an array of `ndim` dimensions; None: the whole axis
        (clause BLK-2).

        >>> from qemu_swalp import bfp
        >>> bfp(8, axis=0).extents(2), bfp(8, axis=(0, 1), size=2).extents(2), bfp(8).extents(2)
        ((1, None), (2, 2), (None, None))
        """
        return block_extents(self.axes_of(ndim), self.size, ndim)

    def canonical_string(self) -> str:
        written = (shorthand(self) for shorthand in SHORTHANDS)
        return next(filter(None, written), None) or super().canonical_string()


@cache
def _nvfp4() -> tuple[BinadeFormat, BinadeFormat, BinadeFormat]:
    """Element, block scale and global scale of the vendor rules."""
    return Float(2, 1, specials="finite"), Float(4, 3, specials="fn"), FLOAT32
