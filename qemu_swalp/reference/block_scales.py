"""The scales of blocks, by every rule (clauses BLK-3, BLK-7 to BLK-11)."""

from __future__ import annotations

from typing import NamedTuple

from ..arrays import Array, Namespace
from ..formats import BinadeFormat, Block, Fixed
from ..formats.scale import GGML
from ..rounding import TO_NEAREST
from .binary32 import divide32, number32, to_binary32
from .blocks import Lengths, blocks_shape, is_empty, over_blocks, spread
from .context import Context, Magnitude
from .division import Number, constant, number, round_quotient
from .element import Rounded, parts, round_to_multiple
from .nvfp4 import before_rounding, effective, two_levels
from .scale_formats import fractional, in_range

NO_SCALE = -100_000
"""Exponent of a scale of zero: far below every product that is not zero."""


class Scales(NamedTuple):
    """What blocks share, as arrays of integers of the source dtype's width: one for each block, or
    spread over elements.
    """

    exponent: Array | int = 0
    """Of a scale that is 2^exponent, or significand·2^(exponent - s)."""
    significand: Array | None = None
    nan: Array | None = None
    """Mask of the blocks that are NaN throughout."""
    zero_point: Array | None = None
    inverse: Array | None = None
    """float32 magnitude bits that elements are multiplied by (vendor rules)."""
    negative: Array | None = None
    """Mask of the scales that are negative (clause BLK-19)."""
    origin: Array | None = None
    """float32 bits of what is taken from elements before they are rounded (BLK-19)."""
    offset: Array | None = None
    """float32 bits of what is added to the products of elements and scales (BLK-19)."""

    @property
    def number(self) -> Number:
        """The scales as numbers; of powers of two without a significand."""
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
    block_scale: Number
    """The scale of each block, without the global scale."""
    global_scale: Array | None = None
    """float32 magnitude bits of the array's scale, if the format has one."""


class Extent(NamedTuple):
    """What the rules look at: arrays of magnitude bits, one for each block."""

    amax: Array
    """The greatest magnitude; under "minmax" the greatest positive number."""
    low: Array
    """The magnitude of the least negative number under "minmax", else amax."""
    nan: Array | None
    """Mask of the blocks that are NaN throughout."""
    shape: Lengths
    """Of the array, of at least one dimension."""


def extent_of(ctx: Context, x: Array, format: Block, policy: str) -> Extent:
    """The extent of the finite elements of each block, under a policy in force."""
    xp, dtype = ctx
    shape = xp.lengths(x)
    magnitude = ctx.magnitude_bits(x)
    nan = None
    if is_empty(shape):
        amax = low = xp.broadcast(xp.table([0], dtype.width, x), blocks_shape(shape, format))
    else:
        finite = xp.where(magnitude < dtype.infinity, magnitude, 0)
        negative = ctx.negative(x)
        affine = format.rule == "minmax"
        amax = over_blocks(xp, xp.where(negative, 0, finite) if affine else finite, format)
        low = over_blocks(xp, xp.where(negative, finite, 0), format) if affine else amax
        if format.nonfinite == "block":
            least = dtype.infinity if policy == "block" else dtype.infinity + 1
            nan = over_blocks(xp, xp.cast(magnitude >= least, dtype.width), format) == 1
    return Extent(amax, low, nan, shape)


def scales_by_rule(
    ctx: Context, extent: Extent, format: Block, global_scale: Array | None = None
) -> Shared:
    """The scales by a rule that looks at the extent of a block alone.

    global_scale : float32 magnitude bits, where rule "nearest" does not compute it.
    """
    xp, (amax, low, nan, shape) = ctx.xp, extent
    if format.second is not None:
        empty = is_empty(shape)
        whole = greatest_of(ctx, extent)
        block, inverse, global_scale = two_levels(ctx, amax, whole, format, global_scale)
        scale = number_or_zero(xp, effective(xp, format.rule, block, global_scale))
        one = xp.table([0], 32, amax) if empty else global_scale[(slice(0, 1),) * len(shape)]
        return Shared(
            Scales(*scale, nan=nan, inverse=inverse),
            number_or_zero(xp, block),
            xp.broadcast(one, (1,) * len(shape)),
        )
    if format.rule == GGML:
        quotient = divide32(xp, to_binary32(ctx, amax), format.top)
        own, inverse = before_rounding(xp, quotient, format)
        scale = number_or_zero(xp, own)
        return Shared(Scales(*scale, nan=nan, inverse=inverse), scale)
    zero_point = None
    if format.powers:
        scale = Number(_power(ctx, amax, format, format.powers), None)
    elif format.rule == "minmax":
        scale, zero_point = _affine(ctx, amax, low, format)
    else:
        scale = _nearest(ctx, amax, format)
    return Shared(Scales(*scale, nan=nan, zero_point=zero_point), scale)


def greatest_of(ctx: Context, extent: Extent) -> Array:
    """The greatest magnitude of an array."""
    empty = is_empty(extent.shape)
    return extent.amax if empty else ctx.xp.max_over(extent.amax, range(len(extent.shape)))


def number_or_zero(xp: Namespace, bits: Array) -> Number:
    """The number with these float32 magnitude bits, zero included."""
    exponent, significand = number32(xp, bits)
    return Number(xp.where(bits == 0, NO_SCALE, exponent), significand)


def _power(ctx: Context, amax: Array, format: Block, ends: tuple[int, int]) -> Array:
    """S of a block, by BLK-3 or BLK-7."""
    (xp, dtype), element, s = ctx, format.element, ctx.dtype.significand
    top, fraction_of_max = parts(dtype, format.top)
    sig, ulp = ctx.split(amax)
    lead, fraction = ctx.normalize(sig)
    exponent = lead + ulp - top
    if format.rule == "ceil":
        exponent = exponent + xp.cast(fraction != 0, dtype.width)
    elif format.rule == "rceil":
        exponent = exponent + xp.cast(fraction > fraction_of_max, dtype.width)
    elif (
        isinstance(element, BinadeFormat)
        and format.rule == "even"
        and (bits := top - element.quantum_at(top)) < s
    ):
        # up where rounding the fraction to the element's bits carries into the next binade
        exponent = exponent + xp.cast(fraction >= (1 << s) - (1 << (s - bits - 1)), dtype.width)
    return xp.where(amax == 0, ends[0], xp.clip(exponent, *ends))


def _nearest(ctx: Context, amax: Array, format: Block) -> Number:
    """amax/top in the scale's format (clause BLK-8)."""
    divisor = constant(ctx.dtype, format.top)
    return _quotient(ctx, fractional(format), ctx.split(amax), divisor)


def _quotient(ctx: Context, scale: BinadeFormat, dividend: Magnitude, divisor: Number) -> Number:
    return in_range(ctx, scale, round_quotient(ctx, scale, dividend, divisor, TO_NEAREST))


def _affine(ctx: Context, high: Array, low: Array, format: Block) -> tuple[Number, Array]:
    """(scale, zero point) of blocks whose values reach from -low to high (clause BLK-10)."""
    xp, scale, most = ctx.xp, fractional(format), int(format.element.max)
    extent = _sum(ctx, scale, xp.maximum(high, low), xp.minimum(high, low))
    sig = xp.where((high | low) == 0, 0, extent.significand)
    dividend = Magnitude(sig, extent.exponent - ctx.dtype.significand)
    step = _quotient(ctx, scale, dividend, constant(ctx.dtype, float(most)))
    grid = Fixed(format.element.bits, 0, signed=False)
    zero_point = integers(ctx, round_quotient(ctx, grid, ctx.split(low), step, TO_NEAREST))
    return step, xp.minimum(zero_point, most)


def _sum(ctx: Context, scale: BinadeFormat, more: Array, less: Array) -> Number:
    """more + less, magnitude bits with more ≥ less, in the scale's format.

    Three bits below the greater number's last, the lowest of them set where anything is left:
    enough to round once.
    """
    (xp, dtype), s = ctx, ctx.dtype.significand
    a, b = number(ctx, ctx.split(more)), number(ctx, ctx.split(less))
    down = xp.clip(a.exponent - b.exponent, 0, dtype.width - 1)
    addend = xp.where(less == 0, 0, b.significand * 8)
    shifted = xp.shift_right(addend, down)
    shifted = shifted | xp.cast(xp.shift_left(shifted, down) != addend, dtype.width)
    total = a.significand * 8 + shifted
    ulp = a.exponent - s - 3
    lead = ulp + s + 3 + xp.shift_right(total, s + 4)
    q = xp.maximum(ulp, scale.quantum(lead, xp))
    n = round_to_multiple(ctx, Magnitude(total, ulp), q, TO_NEAREST)
    exponent, fraction = ctx.normalize(n)
    return in_range(ctx, scale, (exponent + q, fraction, n == 0))


def integers(ctx: Context, rounded: Rounded) -> Array:
    """Rounded magnitudes that are integers, or beyond 2^s."""
    (xp, dtype), (exponent, fraction, zero) = ctx, rounded
    s = dtype.significand
    n = xp.shift_right(fraction | (1 << s), xp.clip(s - exponent, 0, s))
    return xp.where(zero, 0, n)
