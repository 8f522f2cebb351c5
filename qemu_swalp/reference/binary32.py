"""float32 arithmetic on magnitude bits, each step rounded once to nearest even, subnormal numbers
included (clause BLK-11).
"""

from __future__ import annotations

import numpy as np

from ..arrays import Array, Namespace
from ..formats import BinadeFormat
from ..formats.block import FLOAT32
from ..rounding import NEAREST, TO_NEAREST
from .context import BINARY32, Context, Magnitude, Target
from .division import Number, constant, number, pack, product, round_quotient
from .element import round_binade


def number32(xp: Namespace, bits: Array) -> Number:
    """The number with these float32 magnitude bits."""
    ctx = Context(xp, BINARY32)
    return number(ctx, ctx.split(bits))


def multiply32(xp: Namespace, a: Array, b: Array | float) -> Array:
    """a·b; zero times infinity is zero."""
    factor = constant(BINARY32, b) if isinstance(b, float) else number32(xp, b)
    bits = product(Context(xp, BINARY32), number32(xp, a), factor)
    infinite, zero = a == BINARY32.infinity, a == 0
    if not isinstance(b, float):
        infinite, zero = infinite | (b == BINARY32.infinity), zero | (b == 0)
    return xp.where(zero, 0, xp.where(infinite, BINARY32.infinity, bits))


def divide32(xp: Namespace, a: Array, b: Array | float) -> Array:
    """a/b; zero divided by zero is zero; b is finite."""
    ctx = Context(xp, BINARY32)
    divisor = constant(BINARY32, b) if isinstance(b, float) else number32(xp, b)
    exponent, fraction, zero = round_quotient(ctx, FLOAT32, ctx.split(a), divisor, TO_NEAREST)
    bits = ctx.join(exponent, fraction)
    bits = xp.where(exponent > BINARY32.bias, BINARY32.infinity, bits)
    bits = xp.where(zero, 0, bits)
    infinite = a == BINARY32.infinity
    if not isinstance(b, float):
        infinite = infinite | ((b == 0) & (a != 0))
    return xp.where(infinite, BINARY32.infinity, bits)


def add32(xp: Namespace, a: Array, b: Array) -> Array:
    """a + b of float32 bits with their signs, which are no NaN; infinity where either is one.

    Three bits below the greater number's last, the lowest of them set where anything is left, are
    enough to round once.
    """
    ctx = Context(xp, BINARY32)
    x, y = a & ~BINARY32.sign, b & ~BINARY32.sign
    swapped = x < y
    more, less = xp.maximum(x, y), xp.minimum(x, y)
    (sig, ulp), (other, other_ulp) = ctx.split(more), ctx.split(less)
    down = xp.minimum(ulp - other_ulp, 31)
    shifted = xp.shift_right(other * 8, down)
    shifted = shifted | xp.cast(xp.shift_left(shifted, down) != other * 8, 32)
    total = sig * 8 + xp.where((a ^ b) < 0, 0 - shifted, shifted)
    lead, _ = ctx.normalize(total)
    up = xp.clip(23 - lead, 0, 23)  # after a cancellation, so that `pack` has a whole significand
    aligned = Magnitude(xp.shift_left(total, up), ulp - 3 - up)
    bits = xp.where(total == 0, 0, pack(ctx, aligned, lead + up))
    bits = xp.where(more == BINARY32.infinity, BINARY32.infinity, bits)
    sign = xp.where(total == 0, a & b, xp.where(swapped, b, a)) & BINARY32.sign
    return bits | sign


def to_binary32(ctx: Context, bits: Array) -> Array:
    """float32 magnitude bits of the numbers with these magnitude bits; float32 represents every
    number of the dtype.
    """
    (xp, dtype), single = ctx, ctx.of(BINARY32)
    if dtype.name == "float32":
        return bits
    sig, ulp = ctx.split(bits)
    lead, fraction = ctx.normalize(sig)
    finite = xp.where(sig == 0, 0, single.join(lead + ulp, fraction))
    special = BINARY32.infinity + xp.cast(bits > dtype.infinity, 32)
    return xp.where(bits >= dtype.infinity, special, finite)


def nearest_value(xp: Namespace, bits: Array, format: BinadeFormat) -> Array:
    """The nearest value of a format; its greatest for what is above."""
    target = Target(format, "saturate", NEAREST)
    return xp.bits(round_binade(Context(xp, BINARY32), xp.floats(bits, "float32"), format, target))


def bits32(value: float) -> int:
    """float32 bits of a positive number of the host; those of infinity, if it is beyond float32."""
    with np.errstate(over="ignore"):
        return int(np.float32(value).view(np.int32))
