"""Scales of two levels, by the float32 steps of clauses BLK-9 and BLK-11. Magnitude bits in,
magnitude bits out.
"""

from __future__ import annotations

import numpy as np

from ..arrays import Array, Namespace
from ..formats import BinadeFormat, Block
from ..formats.scale import VENDOR_RULES
from .binary32 import bits32, divide32, multiply32, nearest_value, to_binary32
from .context import BINARY32, Context

SIXTH = float(np.float32(1) / np.float32(6))
INVERSE_2688 = float(np.float32(1 / 2688))
ONE, LARGEST, LEAST = 0x3F80_0000, 0x7F7F_FFFF, 1
"""float32 bits of 1, of the greatest finite number and of the least positive one."""

TwoLevels = tuple[Array, Array | None, Array]
"""(block scales, what x is multiplied by instead of divided by a scale, global scale)."""


def two_levels(
    ctx: Context, amax: Array, whole: Array, format: Block, global_scale: Array | None = None
) -> TwoLevels:
    """The scales of a format with a global scale, from the greatest magnitudes of each block and of
    the whole array.
    """
    amax, whole = to_binary32(ctx, amax), to_binary32(ctx, whole)
    if not isinstance(format.scale, BinadeFormat):
        raise TypeError(f"{format.scale} has no significand")
    if format.rule == "nearest":
        if global_scale is None:
            global_scale = by_nearest(ctx.xp, whole, format.top, format.scale.max)
        return _nearest(ctx.xp, amax, global_scale + 0 * amax, format.top, format.scale)
    steps = {"transformer_engine": _transformer_engine, "torchao": _torchao}
    return steps[format.rule](ctx.xp, amax, whole + 0 * amax, format.top, format.scale)


def before_rounding(xp: Namespace, scale: Array, format: Block) -> tuple[Array, Array]:
    """BLK-18: (block scales, what x is multiplied by), the second of the scales before they are
    rounded, which are given.
    """
    if not isinstance(format.scale, BinadeFormat):
        raise TypeError(f"{format.scale} has no significand")
    inverse = xp.minimum(divide32(xp, 0 * scale + ONE, scale), LARGEST)
    none = (scale == 0) | (scale == BINARY32.infinity)
    return nearest_value(xp, scale, format.scale), xp.where(none, 0, inverse)


def by_nearest(xp: Namespace, whole: Array, top: float, most: float) -> Array:
    """BLK-9: the global scale, by which `most` is the greatest scale of a block."""
    return xp.maximum(divide32(xp, divide32(xp, whole, top), most), LEAST)


def effective(xp: Namespace, rule: str, block: Array, global_scale: Array) -> Array:
    """What element values are multiplied by."""
    scale = multiply32(xp, block, global_scale)
    if rule == "transformer_engine":
        scale = multiply32(xp, scale, INVERSE_2688)
    return xp.clip(scale, 0 if rule in VENDOR_RULES else LEAST, LARGEST)


def _nearest(
    xp: Namespace, amax: Array, global_scale: Array, top: float, scale: BinadeFormat
) -> TwoLevels:
    """BLK-9."""
    wanted = xp.minimum(divide32(xp, divide32(xp, amax, top), global_scale), LARGEST)
    block = xp.maximum(nearest_value(xp, wanted, scale), bits32(scale.min_positive))
    return block, None, global_scale


def _transformer_engine(
    xp: Namespace, amax: Array, whole: Array, top: float, scale: BinadeFormat
) -> TwoLevels:
    """BLK-11, first variant."""
    encode = xp.minimum(divide32(xp, 0 * whole + bits32(top * scale.max), whole), LARGEST)
    encode = xp.where(whole == 0, ONE, encode)
    wanted = multiply32(xp, amax, multiply32(xp, encode, SIXTH))
    block = nearest_value(xp, xp.minimum(wanted, LARGEST), scale)
    decode = multiply32(xp, block, divide32(xp, 0 * encode + ONE, encode))
    return block, xp.minimum(divide32(xp, 0 * block + ONE, decode), LARGEST), whole


def _torchao(
    xp: Namespace, amax: Array, whole: Array, top: float, scale: BinadeFormat
) -> TwoLevels:
    """BLK-11, second variant."""
    global_scale = divide32(xp, whole, top * scale.max)
    wanted = divide32(xp, divide32(xp, amax, top), global_scale)
    block = nearest_value(xp, xp.clip(wanted, bits32(2.0**-6), bits32(scale.max)), scale)
    inverse = divide32(xp, divide32(xp, 0 * global_scale + ONE, global_scale), block)
    return block, inverse, global_scale
