"""Checks of what a user passes to the functions on arrays."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..arrays import Array, Namespace
from ..arrays.dtypes import SOURCE_DTYPES, SourceDtype
from ..formats import Block, Format, Overflow
from ..random_bits import RandomBits
from ..reference.context import element_of
from ..rounding import Rounding


def as_array(x: Array) -> Array:
    """Python numbers and (nested) lists as NumPy float32; anything else as it is."""
    plain = isinstance(x, int | float | list | tuple) and not isinstance(x, np.generic)
    return np.asarray(x, np.float32) if plain else x


def check_like(xp: Namespace, name: str, x: Array, like_name: str, like: Array) -> None:
    """TypeError unless x is an array of the library and dtype of another."""
    if not xp.owns(x) or xp.dtype(x) != xp.dtype(like):
        got = xp.dtype(x) if xp.owns(x) else f"{type(x).__module__}.{type(x).__qualname__}"
        raise TypeError(
            f"{name} must be a {xp.name} array of {xp.dtype(like)} like {like_name}, got {got}"
        )


@lru_cache(maxsize=4096)
def check_representable(format: Format, dtype: SourceDtype) -> None:
    """TypeError unless the dtype represents the values of the format (clause SRC-1)."""
    if isinstance(format, Block) and format.second is not None and dtype.width > 32:
        raise TypeError(
            f"{format} is defined by float32 steps, and {dtype.name} has more; convert it to"
            " float32"
        )
    lacking = _lacking(format, dtype)
    if lacking:
        wider = next((d.name for d in SOURCE_DTYPES.values() if not _lacking(format, d)), None)
        remedy = f"convert it to {wider}" if wider else "no supported dtype represents them"
        raise TypeError(
            f"an array of {dtype.name} cannot represent the values of {format}: it lacks {lacking};"
            f" {remedy}"
        )


def _lacking(format: Format, dtype: SourceDtype) -> str:
    """What the dtype lacks to represent the values of the format; "" if nothing."""
    element = element_of(format)
    if element.precision > dtype.precision:
        return f"precision ({element.precision} bits, it has {dtype.precision})"
    if isinstance(format, Block) and format.powers:
        return ""
    if element.least_exponent < dtype.least_exponent:
        return (
            f"small values (multiples of 2^{element.least_exponent}, it has"
            f" 2^{dtype.least_exponent})"
        )
    if max(element.max, -element.min) > dtype.max:
        return f"range (up to {max(element.max, -element.min):g}, it has {dtype.max:g})"
    return ""


def policy_of(format: Format, overflow: Overflow | None) -> Overflow:
    """The overflow policy in force. ValueError where the format cannot express it."""
    element = element_of(format)
    if overflow is None:
        return element.overflow
    element.check_overflow(overflow)
    return overflow


def check_random(
    xp: Namespace, x: Array, rounding: Rounding, random: RandomBits | Array | None
) -> None:
    """ValueError unless there are random bits where the rounding needs them."""
    if not rounding.stochastic or isinstance(random, RandomBits):
        return
    if random is None:
        raise ValueError(
            f"rounding {rounding} needs random=: RandomBits(seed, stream, step), with another"
            " stream for every tensor and another step for every call, or an array of 32-bit"
            " random words"
        )
    if not xp.owns(random) or not xp.same_shape(random, x) or "int32" not in xp.dtype(random):
        got = (
            f"{xp.dtype(random)} of shape {tuple(random.shape)}"
            if xp.owns(random)
            else type(random).__qualname__
        )
        raise ValueError(
            f"random must be RandomBits, or a uint32 or int32 {xp.name} array of shape"
            f" {tuple(x.shape)}, got {got}"
        )


def check_out(xp: Namespace, x: Array, out: Array, dtype: SourceDtype) -> None:
    """TypeError or ValueError unless `out` is an array like x."""
    if not xp.owns(out):
        raise TypeError(
            f"out must be a {xp.name} array like x, got"
            f" {type(out).__module__}.{type(out).__qualname__}"
        )
    if not xp.same_shape(out, x) or xp.dtype(out) != dtype.name:
        raise ValueError(
            f"out must have x's shape {tuple(x.shape)} and dtype {dtype.name}, "
            f"got {tuple(out.shape)} and {xp.dtype(out)}"
        )
