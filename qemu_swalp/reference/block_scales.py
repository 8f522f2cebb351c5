"""The scales of blocks, by every rule (clauses BLK-3, BLK-7 to BLK-11)."""

from __future__ import annotations

import functools
import operator
from dataclasses import replace
from typing import NamedTuple

from ..arrays import Array, Namespace
from ..arrays.dtypes import SourceDtype
from ..formats import BinadeFormat, Block, Exponent, Fixed, Float
from ..formats.binade import binade
from .blocks import Lengths, blocks_shape, is_empty, over_blocks, spread
from .division import BINARY32, NEAREST, Number, constant, number, number32, round_quotient
from .element import Rounded, parts, round_to_multiple
from .nvfp4 import effective, two_levels

NO_SCALE = -100_000
"""Exponent of a scale of zero: far below what any product keeps."""


class Scales(NamedTuple):
    """What blocks share, as arrays of integers of the carrier's width: one for each block, or
    spread over elements.
    """

    exponent: Array | int = 0
    """Of a scale that is 2^exponent, or significand·2^(exponent - s)."""
    significand: Array | None = None
    nan: Array | None = None
    """Mask of the blocks that are NaN throughout."""
    zero_point: Array | None = None
    inverse: Array | None = None
    """float32 magnitude bits that elements are multiplied by (published rules)."""

    @property
    def number(self) -> Number:
        return Number(self.exponent, self.significand)

    def over_elements(self, xp: Namespace, lengths: Lengths, format: Block) -> Scales:
        """Those of the blocks of an array of that shape, repeated so that they broadcast to its
        elements.
        """
        return Scales(
            *(
                part if part is None or isinstance(part, int) else spread(xp, part, lengths, format)
                for part in self
            )
        )


class Shared(NamedTuple):
    """All that the blocks of an array have in common."""

    scales: Scales
    own: Number
    """The blocks' own scales, below a second."""
    second: Array | None = None
    """float32 magnitude bits of the array's scale, if there is one."""


def block_scales(xp: Namespace, x: Array, carrier: SourceDtype, format: Block) -> Shared:
    """The scales of the blocks of an array of at least one dimension."""
    shape = xp.lengths(x)
    empty = is_empty(shape)
    magnitude = xp.cast(xp.bits(x), carrier.width) & ((1 << (carrier.storage - 1)) - 1)
    nan = None
    if empty:
        amax = low = xp.broadcast(xp.table([0], carrier.width, x), blocks_shape(shape, format))
    else:
        finite = xp.where(magnitude < carrier.infinity, magnitude, 0)
        negative = carrier.negative(xp, x)
        least = format.rule == "minmax"
        amax = over_blocks(xp, xp.where(negative, 0, finite) if least else finite, format)
        low = over_blocks(xp, xp.where(negative, finite, 0), format) if least else amax
        if format.spreads_nan:
            nan = over_blocks(xp, xp.cast(magnitude > carrier.infinity, carrier.width), format) == 1
    if format.second is not None:
        whole = amax if empty else xp.max_over(amax, range(len(shape)))
        block, inverse, second = two_levels(xp, amax, whole, carrier, format)
        scale = number_or_zero(xp, effective(xp, format.rule, block, second))
        one = xp.table([0], 32, x) if empty else second[(slice(0, 1),) * len(shape)]
        second = xp.broadcast(one, (1,) * len(shape))
        return Shared(Scales(*scale, nan=nan, inverse=inverse), number_or_zero(xp, block), second)
    zero_point = None
    if format.powers:
        own = Number(_power(xp, amax, carrier, format, format.powers), None)
    elif format.rule == "minmax":
        own, zero_point = _affine(xp, amax, low, carrier, format)
    else:
        own = _nearest(xp, amax, carrier, format)
    return Shared(Scales(*own, nan=nan, zero_point=zero_point), own)


def number_or_zero(xp: Namespace, bits: Array) -> Number:
    """The number with these float32 magnitude bits, zero included."""
    found = number32(xp, bits)
    return Number(xp.where(bits == 0, NO_SCALE, found.exponent), found.significand)


def _power(
    xp: Namespace, amax: Array, carrier: SourceDtype, format: Block, ends: tuple[int, int]
) -> Array:
    """S of a block, by BLK-3 or BLK-7."""
    element, s = format.element, carrier.significand
    top, fraction_of_max = parts(carrier, element.max)
    sig, ulp = carrier.split_magnitude(xp, amax)
    lead, fraction = carrier.normalize(xp, sig)
    exponent = lead + ulp - top
    if format.rule == "ceil":
        exponent = exponent + xp.cast(fraction != 0, carrier.width)
    elif format.rule == "rceil":
        exponent = exponent + xp.cast(fraction > fraction_of_max, carrier.width)
    elif format.rule == "even" and (kept := top - element.quantum_at(top)) < s:
        exponent = exponent + xp.cast(fraction >= (1 << s) - (1 << (s - kept - 1)), carrier.width)
    return xp.where(amax == 0, ends[0], xp.clip(exponent, *ends))


def _nearest(xp: Namespace, amax: Array, carrier: SourceDtype, format: Block) -> Number:
    """amax/element.max in the scale's format (clause BLK-8)."""
    sig, ulp = carrier.split_magnitude(xp, amax)
    return _quotient(
        xp, carrier, fractional(format), sig, ulp, constant(carrier, format.element.max)
    )


def fractional(format: Block) -> BinadeFormat:
    """The scale's format, which has significand bits. TypeError where its scales are powers of
    two.
    """
    if not isinstance(format.scale, BinadeFormat):
        raise TypeError(f"{format.scale} has no significand")
    return unsigned(format.scale)


def unsigned(scale: BinadeFormat) -> BinadeFormat:
    """The format without the sign bit where that is the last of 32, which int32 lacks: scales are
    positive.
    """
    return replace(scale, signed=False) if isinstance(scale, Float) and scale.bits > 31 else scale


def _quotient(
    xp: Namespace,
    carrier: SourceDtype,
    scale: BinadeFormat,
    sig: Array,
    ulp: Array,
    divisor: Number,
) -> Number:
    rounded = round_quotient(xp, carrier, scale, NEAREST, sig, ulp, divisor, sig != sig, None)
    return _in_range(xp, carrier, scale, rounded)


def _in_range(xp: Namespace, carrier: SourceDtype, scale: BinadeFormat, rounded: Rounded) -> Number:
    """A positive value of the format: the greatest for what is above it, the least for zero and
    what is below it.
    """
    exponent, fraction, zero = rounded
    (top, top_fraction), (least, least_fraction) = (
        parts(carrier, scale.max),
        parts(carrier, scale.min_positive),
    )
    beyond = (exponent > top) | ((exponent == top) & (fraction > top_fraction))
    below = zero | (exponent < least)
    exponent = xp.where(below, least, xp.where(beyond, top, exponent))
    fraction = xp.where(below, least_fraction, xp.where(beyond, top_fraction, fraction))
    return Number(exponent, fraction | (1 << carrier.significand))


def _affine(
    xp: Namespace, high: Array, low: Array, carrier: SourceDtype, format: Block
) -> tuple[Number, Array]:
    """(scale, zero point) of blocks whose values reach from -low to high (clause BLK-10)."""
    scale, most = fractional(format), int(format.element.max)
    spread_ = _sum(xp, carrier, scale, xp.maximum(high, low), xp.minimum(high, low))
    sig = xp.where((high | low) == 0, 0, spread_.significand)
    found = _quotient(
        xp,
        carrier,
        scale,
        sig,
        spread_.exponent - carrier.significand,
        constant(carrier, float(most)),
    )
    sig, ulp = carrier.split_magnitude(xp, low)
    grid = Fixed(format.element.bits, 0, signed=False)
    rounded = round_quotient(xp, carrier, grid, NEAREST, sig, ulp, found, sig != sig, None)
    return found, xp.minimum(integers(xp, carrier, rounded), most)


def _sum(
    xp: Namespace, carrier: SourceDtype, scale: BinadeFormat, more: Array, less: Array
) -> Number:
    """more + less, magnitude bits with more ≥ less, in the scale's format.

    Three bits below the greater number's last, the lowest of them set where anything is left:
    enough to round once.
    """
    s, width = carrier.significand, carrier.width
    a, b = (number(xp, carrier, *carrier.split_magnitude(xp, bits)) for bits in (more, less))
    down = xp.clip(a.exponent - b.exponent, 0, width - 1)
    addend = xp.where(less == 0, 0, b.significand * 8)
    kept = xp.shift_right(addend, down)
    kept = kept | xp.cast(xp.shift_left(kept, down) != addend, width)
    total = a.significand * 8 + kept
    ulp = a.exponent - s - 3
    lead = ulp + s + 3 + xp.shift_right(total, s + 4)
    q = xp.maximum(ulp, scale.quantum(lead, xp))
    n = round_to_multiple(xp, carrier, NEAREST, total, ulp, q, total != total, None)
    exponent, fraction = carrier.normalize(xp, n)
    return _in_range(xp, carrier, scale, (exponent + q, fraction, n == 0))


def integers(xp: Namespace, carrier: SourceDtype, rounded: Rounded) -> Array:
    """Rounded magnitudes that are integers, or beyond 2^s."""
    exponent, fraction, zero = rounded
    s = carrier.significand
    n = xp.shift_right(fraction | (1 << s), xp.clip(s - exponent, 0, s))
    return xp.where(zero, 0, n)


def scale_codes(xp: Namespace, carrier: SourceDtype, format: Block, shared: Shared) -> Array:
    """Codes of the blocks' own scales (clause COD-4)."""
    exponent, significand = shared.own
    if format.powers:
        codes = exponent - (format.powers[0] if isinstance(format.scale, BinadeFormat) else 0)
    else:
        scale = fractional(format)
        q = scale.quantum(exponent, xp)
        n = xp.shift_right(
            significand, xp.clip(carrier.significand - exponent + q, 0, carrier.width - 1)
        )
        codes = scale.encode_parts(n != n, n, xp.maximum(exponent, binade(scale.min_positive)), xp)
    if shared.scales.nan is not None and isinstance(format.scale, BinadeFormat):
        codes = xp.where(shared.scales.nan, format.scale.nan_code or 0, codes)
    return codes


def scales_of_codes(
    xp: Namespace,
    carrier: SourceDtype,
    format: Block,
    codes: Array,
    second: Array | None,
    zero_point: Array | None,
) -> Scales:
    """The scales that codes stand for; inverse of `scale_codes`. NaN where a code stands for no
    finite number.
    """
    if isinstance(format.scale, Exponent):
        return Scales(codes)
    scale = unsigned(format.scale)
    _, n, q = scale.decode_parts(codes, xp)
    masks = [mask for mask in scale.special_codes(codes, xp) if mask is not None]
    nan = functools.reduce(operator.or_, masks) if masks else None
    found = number(xp, carrier, n, q)
    if format.powers:
        return Scales(found.exponent, nan=nan)
    if second is not None:
        block = xp.where(
            n == 0, 0, BINARY32.join(xp, found.exponent, found.significand & ((1 << 23) - 1))
        )
        found = number_or_zero(xp, effective(xp, format.rule, block, second + 0 * block))
    else:
        found = Number(xp.where(n == 0, NO_SCALE, found.exponent), found.significand)
    return Scales(*found, nan=nan, zero_point=zero_point)
