"""Rounding under the scales of blocks (clauses BLK-4, BLK-8, BLK-10, BLK-11)."""

from __future__ import annotations

from ..arrays import Array, Namespace
from ..arrays.dtypes import SourceDtype
from ..formats import Block
from ..formats.scale import VENDOR_RULES
from ..rounding import Rounding
from .block_scales import Scales, integers
from .division import BINARY32, Number, multiply32, number, number32, pack, product, round_quotient
from .element import Rounded, finish, round_binade, round_magnitude
from .nvfp4 import to_binary32
from .overflow import MARK


def round_scaled(
    xp: Namespace,
    x: Array,
    carrier: SourceDtype,
    format: Block,
    overflow: str,
    rounding: Rounding,
    words: Array | None,
    scales: Scales,
) -> Array:
    """x rounded to the format, whose scales broadcast to x's shape."""
    if format.powers:
        rounded = round_binade(
            xp, x, carrier, format.element, overflow, rounding, words, scales.exponent
        )
    else:
        elements = round_elements(xp, x, carrier, format, overflow, rounding, words, scales)
        rounded = times_scale(xp, elements, carrier, format, scales.number)
    return with_nan(xp, rounded, carrier, scales.nan)


def with_nan(xp: Namespace, values: Array, carrier: SourceDtype, nan: Array | None) -> Array:
    """The values, NaN where the mask holds."""
    if nan is None:
        return values
    return xp.floats(
        xp.where(nan, carrier.infinity + (1 << (carrier.mantissa - 1)), xp.bits(values)),
        carrier.name,
    )


def round_elements(
    xp: Namespace,
    x: Array,
    carrier: SourceDtype,
    format: Block,
    overflow: str,
    rounding: Rounding,
    words: Array | None,
    scales: Scales,
) -> Array:
    """x divided by the scale and rounded to the element format (less the zero point), in the dtype
    of x.
    """
    magnitude, sig, ulp = carrier.split(xp, x)
    negative = carrier.negative(xp, x)
    element = format.element
    if format.powers:
        rounded = round_magnitude(
            xp, carrier, element, rounding, sig, ulp - scales.exponent, negative, words
        )
    elif scales.inverse is not None:
        scaled = multiply32(xp, to_binary32(xp, carrier, magnitude), scales.inverse)
        parts = BINARY32.split_magnitude(xp, scaled)
        rounded = round_magnitude(xp, carrier, element, rounding, *parts, negative, words)
    else:
        rounded = round_quotient(
            xp, carrier, element, rounding, sig, ulp, scales.number, negative, words
        )
    if scales.zero_point is None:
        return round_binade(xp, x, carrier, element, overflow, rounding, words, rounded=rounded)
    return _round_affine(
        xp, x, carrier, int(element.max), overflow, scales.zero_point, magnitude, negative, rounded
    )


def _round_affine(
    xp: Namespace,
    x: Array,
    carrier: SourceDtype,
    most: int,
    overflow: str,
    zero_point: Array,
    magnitude: Array,
    negative: Array,
    rounded: Rounded,
) -> Array:
    """Integers from -zero_point to most - zero_point (clause BLK-10)."""
    bound = xp.where(negative, zero_point, most - zero_point) + 0 * magnitude
    n = integers(xp, carrier, rounded)
    beyond = (n > bound) | (magnitude == carrier.infinity)
    n = xp.where(beyond, bound, n)
    exponent, fraction = carrier.normalize(xp, n)
    bits = xp.where(n == 0, 0, carrier.join(xp, exponent, fraction))
    bits = xp.where(negative & (n != 0), bits | -(1 << (carrier.storage - 1)), bits)
    if overflow == MARK:
        bits = xp.where(beyond, carrier.nan, bits)
    return finish(xp, x, carrier, magnitude, bits)


def times_scale(
    xp: Namespace, elements: Array, carrier: SourceDtype, format: Block, scale: Number
) -> Array:
    """Element values times scales that are no powers of two: rounded once to the dtype (by the
    published rules to float32 first), the greatest finite number beyond its range.
    """
    magnitude, sig, ulp = carrier.split(xp, elements)
    factor = number(xp, carrier, sig, ulp)
    if format.rule in VENDOR_RULES and carrier.name != "float32":
        bits = product(xp, BINARY32, factor, scale)
        found = number32(xp, bits)
        narrow = pack(xp, carrier, found.significand, found.exponent - 23, 23 + 0 * bits)
        bits = xp.where(bits == 0, 0, narrow)
    else:
        bits = product(xp, carrier, factor, scale)
    bits = xp.where(magnitude == 0, 0, xp.minimum(bits, carrier.infinity - 1))
    bits = xp.where(magnitude >= carrier.infinity, magnitude, bits)
    bits = xp.where(carrier.negative(xp, elements), bits | -(1 << (carrier.storage - 1)), bits)
    return xp.floats(xp.cast(bits, carrier.storage), carrier.name)
