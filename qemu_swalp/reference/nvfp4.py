"""Scales of two levels, by the float32 steps of clauses BLK-9 and BLK-11. Magnitude bits in,
magnitude bits out.
"""

from __future__ import annotations

import numpy as np

from ..arrays import Array, Namespace
from ..arrays.dtypes import SourceDtype
from ..formats import BinadeFormat, Block
from .division import BINARY32, NEAREST, divide32, multiply32
from .element import round_binade

SIXTH = float(np.float32(1) / np.float32(6))
INVERSE_2688 = float(np.float32(1 / 2688))
ONE, LARGEST, LEAST = 0x3F80_0000, 0x7F7F_FFFF, 1
"""float32 bits of 1, of the greatest finite number and of the least positive one."""


def to_binary32(xp: Namespace, carrier: SourceDtype, magnitude: Array) -> Array:
    """float32 bits of magnitudes of a dtype that float32 holds."""
    if carrier.name == "float32":
        return magnitude
    sig, ulp = carrier.split_magnitude(xp, magnitude)
    lead, fraction = carrier.normalize(xp, sig)
    bits = xp.where(sig == 0, 0, BINARY32.join(xp, lead + ulp, fraction))
    return xp.where(
        magnitude >= carrier.infinity,
        BINARY32.infinity + xp.cast(magnitude > carrier.infinity, 32),
        bits,
    )


def in_format(xp: Namespace, bits: Array, format: BinadeFormat) -> Array:
    """float32 magnitudes to the nearest value of a format; its greatest for what is above."""
    return xp.bits(
        round_binade(xp, xp.floats(bits, "float32"), BINARY32, format, "saturate", NEAREST, None)
    )


def two_levels(
    xp: Namespace, amax: Array, whole: Array, carrier: SourceDtype, format: Block
) -> tuple[Array, Array | None, Array]:
    """(block scales, what x is multiplied by instead of divided by a scale, the second scale) of a
    format with one.
    """
    amax, whole = (to_binary32(xp, carrier, magnitude) for magnitude in (amax, whole))
    whole = whole + 0 * amax
    if not isinstance(format.scale, BinadeFormat):
        raise TypeError(f"{format.scale} has no significand")
    steps = {"nearest": _nearest, "transformer_engine": _transformer_engine, "torchao": _torchao}[
        format.rule
    ]
    block, inverse, second = steps(xp, amax, whole, format.element, format.scale)
    return block, inverse, second


def effective(xp: Namespace, rule: str, block: Array, second: Array) -> Array:
    """What element values are multiplied by."""
    found = multiply32(xp, block, second)
    if rule == "transformer_engine":
        found = multiply32(xp, found, INVERSE_2688)
    return xp.clip(found, LEAST if rule == "nearest" else 0, LARGEST)


Steps = tuple[Array, Array | None, Array]


def _nearest(
    xp: Namespace, amax: Array, whole: Array, element: BinadeFormat, scale: BinadeFormat
) -> Steps:
    """BLK-9."""
    second = xp.maximum(divide32(xp, divide32(xp, whole, element.max), scale.max), LEAST)
    wanted = xp.minimum(divide32(xp, divide32(xp, amax, element.max), second), LARGEST)
    return xp.maximum(in_format(xp, wanted, scale), bits32(scale.min_positive)), None, second


def _transformer_engine(
    xp: Namespace, amax: Array, whole: Array, element: BinadeFormat, scale: BinadeFormat
) -> Steps:
    """BLK-11, first variant."""
    encode = xp.minimum(divide32(xp, 0 * whole + bits32(element.max * scale.max), whole), LARGEST)
    encode = xp.where(whole == 0, ONE, encode)
    wanted = multiply32(xp, amax, multiply32(xp, encode, SIXTH))
    block = in_format(xp, xp.minimum(wanted, LARGEST), scale)
    decode = multiply32(xp, block, divide32(xp, 0 * encode + ONE, encode))
    return block, xp.minimum(divide32(xp, 0 * block + ONE, decode), LARGEST), whole


def _torchao(
    xp: Namespace, amax: Array, whole: Array, element: BinadeFormat, scale: BinadeFormat
) -> Steps:
    """BLK-11, second variant."""
    second = divide32(xp, whole, element.max * scale.max)
    wanted = divide32(xp, divide32(xp, amax, element.max), second)
    block = in_format(xp, xp.clip(wanted, bits32(2.0**-6), bits32(scale.max)), scale)
    return block, divide32(xp, divide32(xp, 0 * second + ONE, second), block), second


def bits32(value: float) -> int:
    """float32 bits of a positive number of the host."""
    return int(np.float32(value).view(np.int32))
