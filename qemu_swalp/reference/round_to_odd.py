"""Sums, quotients and roots rounded to odd in float64 (clause SUM-3 of
`spec/semantics.md`).

A rounding to fewer bits then gives what it would give of the exact number: Boldo and Melquiond,
IEEE Trans. Computers 57(4), 2008. No fused multiply-add is needed, and one by a compiler does no
harm: the products here are exact.
"""

from __future__ import annotations

from ..arrays import Array, Namespace
from ..arrays.dtypes import SourceDtype
from .context import BINARY64, Context

MAGNITUDE = 2**63 - 1


def widened(ctx: Context, x: Array) -> Array:
    """In float64."""
    return in_dtype(ctx, x, BINARY64)


def narrowed(ctx: Context, x: Array) -> Array:
    """From float64, in the dtype of the context, which represents the values."""
    return in_dtype(ctx.of(BINARY64), x, ctx.dtype)


def in_dtype(ctx: Context, x: Array, dtype: SourceDtype) -> Array:
    """Numbers in another source dtype, which represents them."""
    if ctx.dtype == dtype:
        return x
    result = ctx.xp.converted(x, dtype.name)
    if result is not None:
        return result
    xp, source, target = ctx.xp, ctx, ctx.of(dtype)
    if BINARY64 in (ctx.dtype, dtype):
        source, target = ctx.of(ctx.dtype.wide()), ctx.of(dtype.wide())
    magnitude = source.magnitude_bits(x)
    sig, ulp = source.split(magnitude)
    binade, fraction = target.normalize(sig)
    bits = xp.where(sig == 0, 0, target.join(binade + ulp, fraction))
    bits = xp.where(magnitude < ctx.dtype.infinity, bits, dtype.infinity)
    bits = xp.where(magnitude > ctx.dtype.infinity, dtype.nan, bits)
    return target.floats(target.signed(bits, source.negative(x)))


def odd_sum(xp: Namespace, a: Array | None, b: Array) -> Array:
    """a + b: what Knuth's TwoSum finds left of the sum shows in its last bit.

    a : None for +0, which TensorFlow's graphs would not add to a -0.
    """
    if a is None:
        bits = xp.bits(b)
        return xp.floats(xp.where((bits & MAGNITUDE) == 0, 0, bits), BINARY64.name)
    total = a + b
    of_b = total - a
    left = (a - (total - of_b)) + (b - of_b)
    return _odd(xp, total, left, xp.bits(total))


def odd_quotient(xp: Namespace, a: Array, b: Array) -> Array:
    """a/b of numbers of at most 24 significant bits, for which nothing underflows.

    The residual a - q·b of the rounded quotient q is exact: half the significand of q times b has
    at most 50 bits, and both differences lie on a grid that they fill to less than 53 bits.
    """
    quotient = a / b
    high, low = _halves(xp, quotient)
    left = (a - high * b) - low * b
    return _odd(xp, quotient, left, xp.bits(quotient), xp.bits(b))


def odd_root(xp: Namespace, x: Array) -> Array:
    """√x of a number of at most 24 significant bits, for which nothing underflows.

    The residual x - s² of the rounded root s has its sign: of two halves h + l of 26 bits each, h²,
    2·h·l and l² are exact, and so are the first two differences.
    """
    root = xp.sqrt(x)
    high, low = _halves(xp, root)
    left = ((x - high * high) - 2 * high * low) - low * low
    return _odd(xp, root, left, xp.bits(root))


def _halves(xp: Namespace, x: Array) -> tuple[Array, Array]:
    """x as the sum of two numbers of at most 26 significant bits each."""
    bits = xp.bits(x)
    high = xp.floats((bits + (1 << 26)) & -(1 << 27), BINARY64.name)
    return high, x - high


def _odd(xp: Namespace, near: Array, left: Array, *signs: Array) -> Array:
    """`near` rounded to odd, where what is left of the exact number, over the signs but for that of
    `near`, points away from zero if it has the sign of `near`.
    """
    bits, rest = xp.bits(near), xp.bits(left)
    magnitude, sign = bits & MAGNITUDE, rest
    for each in signs:
        sign = sign ^ each
    inexact = ((rest & MAGNITUDE) != 0) & (magnitude < BINARY64.infinity) & (magnitude != 0)
    toward = xp.where(sign < 0, 0 * bits - 1, 1)
    return xp.floats(xp.where(inexact & ((bits & 1) == 0), bits + toward, bits), BINARY64.name)
