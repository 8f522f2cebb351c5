"""Rounding after a shift and a squeeze of logarithms (`formats.squeezed`)."""

from __future__ import annotations

import math
from typing import NamedTuple

from ..arrays import Array, Namespace
from ..arrays.dtypes import SourceDtype
from ..formats import Squeezed
from .binary32 import to_binary32
from .block_round import narrowed
from .context import BINARY32, BINARY64, Context
from .element import parts

LOG_2 = math.log(2)


class Squeeze(NamedTuple):
    """|y| = exp(ln(top)·(log|x| - mean)/reach), by arrays of one number in `dtype`."""

    dtype: SourceDtype
    mean: Array
    """Of log|x|."""
    reach: Array
    """How far the greatest log|x| is above it; 0 where all are equal, or there is none."""
    format: Squeezed


def squeeze_of(ctx: Context, x: Array, format: Squeezed) -> Squeeze:
    """The squeeze of an array of at least one dimension."""
    xp, own = ctx.xp, _own(ctx)
    axes = range(len(xp.lengths(x)))
    magnitude = _widened(ctx, ctx.magnitude_bits(x))
    counts = (magnitude > 0) & (magnitude < own.dtype.infinity)
    logs = _logs(own, magnitude, ~counts)
    count = own.floats(xp.where(counts, _one(own), 0 * magnitude))
    mean = xp.sum_over(logs, axes) / _at_least_one(xp, xp.sum_over(count, axes))
    distance = xp.where(counts, logs - mean, 0 * logs)
    # the mean of equal logarithms may differ from them by its last bits
    spread, tolerance = xp.max_over(xp.abs(distance), axes), 2.0 ** (3 - own.dtype.precision)
    equal = spread <= tolerance * _at_least_one(xp, xp.abs(mean))
    reach = xp.where(equal, 0 * mean, xp.max_over(distance, axes))
    return Squeeze(own.dtype, mean, reach, format)


def squeezed(ctx: Context, x: Array, squeeze: Squeeze) -> Array:
    """y, in the squeeze's dtype."""
    xp, own = ctx.xp, ctx.of(squeeze.dtype)
    magnitude = _widened(ctx, ctx.magnitude_bits(x))
    special = (magnitude == 0) | (magnitude >= own.dtype.infinity)
    reach = xp.where(squeeze.reach > 0, squeeze.reach, 1 + 0 * squeeze.reach)
    logs = xp.where(special, squeeze.mean, _logs(own, magnitude, special))
    distance = logs - squeeze.mean
    y = own.magnitude_bits(xp.exp(distance * (squeeze.format.log_top / reach)))
    # the greatest becomes `top` itself, whatever the last bits of an exponential are
    binade, fraction = parts(own.dtype, squeeze.format.top)
    top = ((binade + own.dtype.bias) << own.dtype.mantissa) + fraction
    y = xp.where(distance >= reach, top, xp.minimum(y, top))
    bits = xp.where(special, magnitude, y)
    return own.floats(own.signed(bits, ctx.negative(x)))


def unsqueezed(ctx: Context, x: Array, y: Array, squeeze: Squeeze) -> Array:
    """What y stands for, in the dtype of x, which stays where nothing was squeezed."""
    xp, own = ctx.xp, ctx.of(squeeze.dtype)
    magnitude = own.magnitude_bits(y)
    special = (magnitude == 0) | (magnitude >= own.dtype.infinity)
    logs = _logs(own, magnitude, special)
    power = logs * (squeeze.reach / squeeze.format.log_top) + squeeze.mean
    # the logarithm of the greatest numbers, rounded, may be one of none
    most = LOG_2 * (own.dtype.bias + 1) * (1 - 2.0 ** (1 - own.dtype.precision))
    values = xp.exp(xp.minimum(power, most + 0 * power))
    bits = xp.where(special, magnitude, own.magnitude_bits(values))
    values = own.floats(own.signed(bits, own.negative(y)))
    result = values if ctx.dtype.width == 64 else narrowed(ctx, values)
    return xp.where((squeeze.reach > 0) | special, result, x)


def _logs(own: Context, magnitude: Array, special: Array) -> Array:
    """Natural logarithms of the numbers with these magnitude bits; 0 where the mask holds.

    By binade and fraction, since libraries may take subnormal numbers for zeros.
    """
    xp = own.xp
    sig, ulp = own.split(xp.where(special, _one(own), magnitude))
    lead, fraction = own.normalize(sig)
    binade = own.floats(xp.float_bits(lead + ulp))
    return binade * LOG_2 + xp.log(own.floats(own.join(0 * lead, fraction)))


def _at_least_one(xp: Namespace, x: Array) -> Array:
    return xp.maximum(x, 1 + 0 * x)


def _one(own: Context) -> int:
    """The bits of 1."""
    return own.dtype.bias << own.dtype.mantissa


def _own(ctx: Context) -> Context:
    return ctx.of(BINARY32 if ctx.dtype.width == 32 else BINARY64)


def _widened(ctx: Context, bits: Array) -> Array:
    return to_binary32(ctx, bits) if ctx.dtype.width == 32 else bits
