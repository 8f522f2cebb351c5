"""Elements under scales of every format and rule (clauses BLK)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product
from typing import NamedTuple

from . import ggml
from .binary32 import (
    LARGEST,
    effective,
    global_scale,
    in_dtype,
    multiply,
    two_levels,
    under_global,
)
from .blocks import Geometry, code_of, greatest, in_force, members, round_element
from .elements import Element
from .exact import NAN, binade, carrier, is_negative, power
from .families import BINARY32, Fixed, Float
from .rounding import parse_rule, quantize, round_to_grid
from .tables import Table

POWER_RULES = ("floor", "ceil", "rceil", "even")
PUBLISHED = ("transformer_engine", "torchao")


@dataclass(frozen=True)
class Exponent:
    """BLK-1: 2^S, S a signed integer of so many bits."""

    exponent_bits: int


@dataclass(frozen=True)
class Block(Geometry):
    """BLK-1: `block<element>`."""

    element: Float | Fixed | Table
    axis: int | tuple[int, ...] | None = None
    size: int | tuple[int, ...] | None = None
    scale: Float | Exponent = Exponent(8)
    rule: str = ""
    second: Float | None = None
    nonfinite: str = ""
    top: float | None = None

    @property
    def aim(self) -> Fraction:
        """BLK-15: what amax is brought to."""
        if self.top is not None:
            return Fraction(self.top)
        if isinstance(self.element, Table):
            return max(self.element.high, -self.element.low)
        return self.element.high

    @property
    def powers(self) -> tuple[int, int] | None:
        """BLK-3: the least and the greatest S of scales that are powers of two."""
        if isinstance(self.scale, Exponent):
            return -(2 ** (self.scale.exponent_bits - 1)), 2 ** (self.scale.exponent_bits - 1) - 1
        if self.scale.mantissa == 0 and not self.scale.signed and not self.scale.zero:
            return binade(self.scale.low), binade(self.scale.high)
        return None

    @property
    def chosen_rule(self) -> str:
        """BLK-3, BLK-8: the rule of a format that names none."""
        return self.rule or ("floor" if self.powers else "nearest")

    def spoils_block(self, x: float, policy: str | None) -> bool:
        """BLK-13: whether an element makes its block NaN, given the caller's policy."""
        if isinstance(self.scale, Exponent):
            return False
        alone = self.scale.has_infinity or not has_nan(self.scale)
        if (self.nonfinite or ("element" if alone else "block")) == "element":
            return False
        return math.isnan(x) or (math.isinf(x) and policy is None)


@dataclass(frozen=True)
class Int(Geometry):
    """BLK-12: `int<W>`."""

    word: int
    zero_point: bool = False
    axis: int | tuple[int, ...] | None = None
    size: int | tuple[int, ...] | None = None
    scale: Float = BINARY32

    @property
    def block_format(self) -> Block:
        """What the string abbreviates."""
        element = Fixed(self.word, 0, signed=not self.zero_point, symmetric=not self.zero_point)
        return Block(
            element, self.axis, self.size, self.scale, "minmax" if self.zero_point else "nearest"
        )


def has_nan(fmt: Float) -> bool:
    """FMT-6, without a list of the codes."""
    return fmt.specials in ("fn", "fnuz") or (fmt.specials == "ieee" and fmt.mantissa > 0)


class Scale(NamedTuple):
    """What a block shares."""

    value: Fraction
    code: int
    zero_point: int | None = None
    inverse: float | None = None
    nan: bool = False
    negative: bool = False
    low: float | None = None
    offset: Fraction | None = None


class Scaled(NamedTuple):
    """COD-4: an array quantized. A code is None where BLK-13 or RND-9 leaves what has none."""

    values: list[float]
    codes: list[int | None]
    scale_shape: tuple[int, ...]
    scales: list[int]
    second: int | None
    zero_points: list[int] | None


def ceiling(x: Fraction) -> int:
    """⌈log2 x⌉."""
    return binade(x) + (power(binade(x)) != x)


def power_scale(fmt: Block, amax: Fraction, ends: tuple[int, int]) -> int:
    """BLK-3, BLK-7: S."""
    if amax == 0:
        return ends[0]
    top = binade(fmt.aim)
    match fmt.chosen_rule:
        case "floor":
            s = binade(amax) - top
        case "ceil":
            s = ceiling(amax) - top
        case "rceil":
            s = ceiling(amax / fmt.aim)
        case _:
            grid = fmt.element
            if isinstance(grid, Table):
                raise ValueError("BLK-15: tables have no rule even")
            step = grid.point(grid.place(power(top)) + 1) - power(top)
            unit = step * power(binade(amax) - top)
            s = (
                binade(round(amax / unit) * unit) - top
            )  # `round` of a Fraction goes to even on ties
    return min(max(s, ends[0]), ends[1])


def in_scale(x: Fraction, scale: Float) -> Fraction:
    """BLK-8: a positive number in the format of the scale."""
    return max(Fraction(rounded(x, scale)), scale.least)


def rounded(x: Fraction, scale: Float) -> float:
    """BLK-8: to nearest even, the greatest value beyond the range."""
    return in_dtype(x, scale) if scale.specials == "ieee" else quantize(x, scale, policy="saturate")


def affine(elements: Sequence[float], fmt: Block, scale: Float) -> tuple[Fraction, int]:
    """BLK-10: scale and zero point."""
    finite = [Fraction(x) for x in elements if math.isfinite(x)]
    high, low = max([*finite, Fraction(0)]), min([*finite, Fraction(0)])
    width = Fraction(rounded(high - low, scale))
    value = in_scale(width / fmt.element.high, scale)
    return value, min(round(-low / value), int(fmt.element.high))


Home = tuple[int, ...]


def tried(fmt: Block) -> list[Block]:
    """BLK-17: the formats whose scales a searching rule tries, in turn."""
    rule = "floor" if fmt.powers else "nearest"
    if fmt.rule == "four_over_six":
        tops = [fmt.aim, fmt.aim * 2 / 3]
    elif fmt.powers:
        tops = [fmt.aim / 2, fmt.aim, fmt.aim * 2]
    else:
        tops = [Fraction(in_dtype(fmt.aim * (8 + j) / 8, BINARY32)) for j in range(9)]
    return [replace(fmt, rule=rule, top=float(top)) for top in tops]


def squares(
    elements: Sequence[float], fmt: Block, scale: Scale, source: Float, amax: Fraction
) -> int:
    """BLK-17: the squared errors of a block, in units of 2^-15 of the binade of amax."""
    if amax == 0:
        return 0
    unit, total = power(binade(amax) - 15), 0
    for x in elements:
        if math.isfinite(x):
            r = round_under(x, fmt, scale, "nearest_even", 0, "saturate")
            ends = (abs(Fraction(v)) // unit for v in (x, result(r, fmt, scale, source)))
            a, b = (min(end, 2**17) for end in ends)
            total += min(abs(a - b), 2**15 - 1) ** 2
    return total


def searched(
    blocks: dict[Home, list[float]], fmt: Block, source: Float
) -> tuple[dict[Home, Scale], int | None]:
    """BLK-17: of the scales that are tried, those of the least error."""
    amax = {home: greatest(elements) for home, elements in blocks.items()}
    second = None
    if fmt.second is not None:
        most = Fraction(256) if fmt.rule == "four_over_six" else fmt.scale.high
        second = global_scale(max(amax.values()), fmt.aim, most)
    found: dict[Home, Scale] = {}
    for home, elements in blocks.items():
        choices = []
        for each in tried(fmt):
            if second is not None:
                own = under_global(amax[home], each.aim, second, fmt.scale)
                value = Fraction(effective("nearest", own, second))
                scale = Scale(value, fmt.scale.code(Fraction(own)))
            else:
                scale = scales_of({home: elements}, each, None, source)[0][home]
                scale = scale._replace(nan=False)
            choices.append((squares(elements, each, scale, source, amax[home]), scale))
        found[home] = min(choices, key=lambda choice: choice[0])[1]
    return found, None if second is None else BINARY32.code(Fraction(second))


def scales_of(
    blocks: dict[Home, list[float]], fmt: Block, policy: str | None, source: Float
) -> tuple[dict[Home, Scale], int | None]:
    """BLK-3, BLK-7 to BLK-11, BLK-13: the scale of each block, and the code of the array's."""
    amax = {home: greatest(elements) for home, elements in blocks.items()}
    found: dict[Home, Scale] = {}
    second: int | None = None
    if fmt.rule in ("mse", "four_over_six"):
        found, second = searched(blocks, fmt, source)
    elif fmt.powers:
        for home in blocks:
            s = power_scale(fmt, amax[home], fmt.powers)
            code = s if isinstance(fmt.scale, Exponent) else fmt.scale.code(power(s))
            found[home] = Scale(power(s), code)
    elif isinstance(fmt.scale, Float) and fmt.rule in ggml.RULES:
        found = {home: by_ggml(elements, fmt, fmt.scale) for home, elements in blocks.items()}
    elif isinstance(fmt.scale, Float) and fmt.second is not None:
        whole = max(amax.values())
        for home in blocks:
            own, inverse, top = two_levels(amax[home], whole, fmt.chosen_rule, fmt.aim, fmt.scale)
            value = Fraction(effective(fmt.chosen_rule, own, top))
            second = BINARY32.code(Fraction(top))
            found[home] = Scale(value, fmt.scale.code(Fraction(own)), None, inverse)
    elif isinstance(fmt.scale, Float):
        for home, elements in blocks.items():
            value, zero_point = in_scale(amax[home] / fmt.aim, fmt.scale), None
            if fmt.chosen_rule == "minmax":
                value, zero_point = affine(elements, fmt, fmt.scale)
            found[home] = Scale(value, fmt.scale.code(value), zero_point)
    for home, elements in blocks.items():
        if isinstance(fmt.scale, Float) and any(fmt.spoils_block(x, policy) for x in elements):
            found[home] = found[home]._replace(nan=True, code=fmt.scale.canonical_nan)
    return found, second


def by_ggml(elements: Sequence[float], fmt: Block, scale: Float) -> Scale:
    """BLK-18, BLK-19: the scale of a block, its minimum, and their codes."""
    found = ggml.steps(elements, fmt.rule, fmt.aim, fmt.element.low)
    value = Fraction(rounded(Fraction(found.quotient), scale))
    code = scale.code(value) + (found.negative << (scale.bits - 1))
    made = Scale(value, code, None, found.inverse, negative=found.negative)
    if found.low is None:
        return made
    offset = Fraction(rounded(abs(Fraction(found.low)), scale))
    minimum = scale.code(offset) + ((found.low < 0) << (scale.bits - 1))
    offset = -offset if found.low < 0 else offset
    return made._replace(low=found.low, offset=offset, zero_point=minimum)


def given(
    blocks: dict[Home, list[float]],
    fmt: Block,
    numbers: Sequence[float],
    points: Sequence[int],
    policy: str | None,
) -> dict[Home, Scale]:
    """BLK-16: scales, and zero points or none, one for all blocks or one for each."""
    found: dict[Home, Scale] = {}
    for i, home in enumerate(sorted(blocks)):
        number = Fraction(numbers[i % len(numbers)])
        if isinstance(fmt.scale, Exponent):
            value, code = number, binade(number)
        else:
            value = number if fmt.powers else in_scale(number, fmt.scale)
            code = fmt.scale.code(value)
        scale = Scale(value, code, points[i % len(points)] if points else None)
        if isinstance(fmt.scale, Float) and any(fmt.spoils_block(x, policy) for x in blocks[home]):
            scale = scale._replace(nan=True, code=fmt.scale.canonical_nan)
        found[home] = scale
    return found


def round_under(x: float, fmt: Block, scale: Scale, mode: str, word: int, policy: str) -> float:
    """BLK-4, BLK-8, BLK-10, BLK-11, BLK-13: the element, less the zero point."""
    if math.isnan(x):
        return NAN
    if fmt.rule in ("ggml_signed", "ggml_minimum"):
        if math.isinf(x):
            x = -x if scale.negative else x
            return round_element(x, fmt.element, mode, word, policy)
        y = ggml.centred(x, scale.inverse or 0.0, scale.negative, scale.low, fmt.element.low)
        return round_element(y, fmt.element, mode, word, policy)
    if scale.zero_point is not None:
        low, high = -scale.zero_point, int(fmt.element.high) - scale.zero_point
        if math.isinf(x) and policy == "saturate":
            return float(low if x < 0 else high)
        if math.isinf(x):
            return NAN if policy == "nan" else x
        n = round_to_grid(
            Fraction(x) / scale.value, Fixed(fmt.element.bits, 0), parse_rule(mode), word
        )
        return float(min(max(n, low), high))
    if math.isinf(x):
        return round_element(x, fmt.element, mode, word, policy)
    if scale.inverse is not None:
        scaled = min(multiply(abs(x), scale.inverse), LARGEST)
        signed = -scaled if is_negative(x) else scaled
        return round_element(signed, fmt.element, mode, word, policy)
    quotient = Fraction(x) / scale.value
    if isinstance(fmt.element, Table):
        quotient = odd(quotient)
    ratio = -0.0 if quotient == 0 and is_negative(x) else quotient
    return round_element(ratio, fmt.element, mode, word, policy)


def odd(x: Fraction) -> Fraction:
    """BLK-15: x rounded to odd at 53 significant bits."""
    if x == 0:
        return x
    unit = power(binade(abs(x)) - 52)
    n = abs(x) // unit
    n = n if n * unit == abs(x) else n | 1
    return n * unit if x > 0 else -n * unit


def result(r: float, fmt: Block, scale: Scale, source: Float) -> float:
    """BLK-4, BLK-8, BLK-11, SRC-2, SRC-3: the element times the scale, in the source dtype."""
    if math.isnan(r) or math.isinf(r):
        return -r if scale.negative else r
    value = Fraction(r) * scale.value
    if scale.offset is not None:
        product = Fraction(in_dtype(value, BINARY32))
        return in_dtype(Fraction(in_dtype(product + scale.offset, BINARY32)), source)
    if fmt.powers and not isinstance(fmt.element, Table):
        near = in_dtype(value, source, toward_zero=True)
    else:
        if fmt.chosen_rule in PUBLISHED:
            value = Fraction(in_dtype(value, BINARY32))
        near = in_dtype(value, source)
    near = -0.0 if near == 0 and is_negative(r) else near
    return -near if scale.negative else near


def quantize_scaled(
    array: Sequence[float],
    shape: tuple[int, ...],
    fmt: Block,
    mode: str = "nearest_even",
    words: Sequence[int] | None = None,
    source: Float = BINARY32,
    policy: str | None = None,
    scales_given: Sequence[float] = (),
    points_given: Sequence[int] = (),
) -> Scaled:
    """BLK: an array in C order, of numbers that the source dtype holds; `policy`: the caller's, and
    so are the scales and zero points that are given.
    """
    homes = [fmt.block(index) for index in product(*map(range, shape))]
    blocks = members(array, homes)
    if scales_given:
        scales, second = given(blocks, fmt, scales_given, points_given, policy), None
    else:
        scales, second = scales_of(blocks, fmt, policy, source)
    used = in_force(fmt.element, policy)
    rounded = [
        round_under(x, fmt, scales[home], mode, word, used)
        for home, x, word in zip(homes, array, words or [0] * len(array), strict=True)
    ]
    lost = [scales[home].nan for home in homes]
    values = [
        NAN if gone else result(r, fmt, scales[home], source)
        for home, r, gone in zip(homes, rounded, lost, strict=True)
    ]
    affine = fmt.chosen_rule == "minmax"
    codes = [
        0 if gone else element_code(r, fmt.element, scales[home].zero_point if affine else None)
        for home, r, gone in zip(homes, rounded, lost, strict=True)
    ]
    ordered = [scales[home] for home in sorted(scales)]
    points = [scale.zero_point for scale in ordered if scale.zero_point is not None]
    return Scaled(
        values,
        codes,
        tuple(1 + max(home[axis] for home in scales) for axis in range(len(shape))),
        [scale.code for scale in ordered],
        second,
        points or None,
    )


def element_code(r: float, element: Element, zero_point: int | None) -> int | None:
    """COD-1, COD-4: the code of an element, None where there is none."""
    if zero_point is None or not math.isfinite(r):
        return code_of(r, element)
    return element.encode(carrier(Fraction(r) + zero_point))
