"""Formats and rounding applied to arrays."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, overload

import numpy as np

from .. import kernels
from .._typing import ArrayT, Numbers
from .._util.autograph import no_autograph
from ..arrays import Array, Namespace, namespace_of
from ..arrays.dtypes import SourceDtype, source_dtype
from ..formats import Block, Format, Overflow, TableFormat, parse
from ..random_bits import Counters, RandomBits
from ..reference.block_round import round_scaled
from ..reference.block_scales import Scales, block_scales
from ..reference.blocks import is_empty
from ..reference.context import Context, Target
from ..reference.element import round_binade
from ..reference.overflow import MARK
from ..reference.table import round_table
from ..rounding import Rounding
from .arguments import as_array, check_out, check_random, check_representable, policy_of


@overload
def quantize(
    x: Numbers,
    format: Format | str,
    rounding: Rounding | str = ...,
    *,
    random: RandomBits | Array | None = ...,
    overflow: Overflow | None = ...,
    out: np.ndarray | None = ...,
) -> np.ndarray: ...


@overload
def quantize(
    x: ArrayT,
    format: Format | str,
    rounding: Rounding | str = ...,
    *,
    random: RandomBits | Array | None = ...,
    overflow: Overflow | None = ...,
    out: ArrayT | None = ...,
) -> ArrayT: ...


@no_autograph
def quantize(
    x: Any,
    format: Format | str,
    rounding: Rounding | str = "nearest_even",
    *,
    random: RandomBits | Array | None = None,
    overflow: Overflow | None = None,
    out: Array | None = None,
) -> Any:
    """Round every element of an array to a number format (clauses RND and BLK of
    `spec/semantics.md`).

    Parameters
    ----------
    x : array of NumPy, CuPy, PyTorch, TensorFlow or JAX; float16, bfloat16, float32 or float64; any
        shape and strides. Python numbers and lists are NumPy float64.
    format : a `Format`, or a string such as "e4m3fn", "fixed<8,6>", "bfp<8,axis=0>".
    rounding : a `Rounding`, or a string such as "nearest_even", "toward_zero", "stochastic",
        "stochastic_b<8>".
    random : for stochastic rounding, which random bits: `RandomBits(seed, stream, step)`; or an
        integer array of x's shape that holds a 32-bit random word for each element.
    overflow : "saturate", "propagate", "infinity" or "nan", instead of the format's own policy.
    out : array to write to, of x's shape and dtype; may be x.

    Returns
    -------
    array of x's library, shape and dtype (`out`, where given). A PyTorch result carries no
    gradient; of a tensor on the device "meta" it is one, without values.

    Raises
    ------
    TypeError: if x is not a dense floating array, or if its dtype does not represent the format's
        values.
    ValueError: if the format, rounding or policy is unknown, if stochastic rounding has no
        `random`, if x lacks an axis of the blocks, or if `out` does not fit x or requires a
        gradient.

    >>> import numpy as np
    >>> quantize(np.float32([0.1, 1.3, 500.0]), "e4m3fn").tolist()
    [0.1015625, 1.25, 448.0]
    >>> random = RandomBits(seed=0)
    >>> quantize(np.float32([0.1, 1.3, 500.0]), "bfp8", "stochastic", random=random).tolist()
    [0.0, 4.0, 500.0]
    """
    format, rounding = parse(format), Rounding.parse(rounding)
    x = as_array(x, format)
    xp = namespace_of(x)
    ctx = Context(xp, source_dtype(xp.dtype(x)))
    check_representable(format, ctx.dtype)
    target = Target(format, policy_of(format, overflow), rounding)
    check_random(xp, x, rounding, random)
    if out is not None:
        check_out(xp, x, out, ctx.dtype)
    return round_array(ctx, x, target, random, out)


def round_array(
    ctx: Context,
    x: Array,
    target: Target,
    random: RandomBits | Array | None,
    out: Array | None = None,
) -> Array:
    """`quantize` of arguments that have been checked."""
    xp, dtype = ctx
    random = random if target.rounding.stochastic else None
    lengths = xp.lengths(x)
    if isinstance(random, RandomBits):
        random.check_reach(lengths)
    if is_empty(lengths):
        empty = xp.floats(xp.bits(x), dtype.name)
        return empty if out is None else xp.write(out, empty)
    if target.policy != MARK:
        result = kernels.quantize(xp, x, dtype, target, random, out)
        if result is not None:
            return result
    if xp.chunk is None and isinstance(random, RandomBits):
        random = random.counters(xp, lengths)
    result = xp.run(by_reference, (dtype, target), x, random)
    return result if out is None else xp.write(out, result)


def by_reference(
    xp: Namespace,
    dtype: SourceDtype,
    target: Target,
    x: Array,
    random: RandomBits | Counters | Array | None,
) -> Array:
    """`round_array` by the reference implementation: a program for `Namespace.run`."""
    ctx, format = Context(xp, dtype), target.format
    shape = xp.lengths(x)
    lifted = xp.reshape(x, shape or (1,))
    scales = None
    if isinstance(format, Block):
        shared = block_scales(ctx, lifted, format, target.policy)
        scales = shared.scales.over_elements(xp, xp.lengths(lifted), format)

    def rounded(part: Array, words: Array | None, scales: Scales | None) -> Array:
        if isinstance(format, Block):
            return round_scaled(ctx, part, format, target, words, scales or Scales())
        element = target.element
        if isinstance(element, TableFormat):
            return round_table(ctx, part, element, target, words)
        return round_binade(ctx, part, element, target, words)

    return xp.reshape(by_chunks(xp, lifted, target.rounding, random, scales, rounded), shape)


def by_chunks(
    xp: Namespace,
    x: Array,
    rounding: Rounding,
    random: RandomBits | Counters | Array | None,
    scales: Scales | None,
    rounded: Callable[[Array, Array | None, Scales | None], Array],
) -> Array:
    """The elementwise `rounded(x, words, scales)`, of any dtype; where NumPy is faster so, in
    pieces that stay in the cache. The same bits, since random bits go by element number.
    """
    lengths = xp.lengths(x)
    if not rounding.stochastic:
        random = None
    elif not isinstance(random, RandomBits | Counters | None):
        random = xp.reshape(xp.cast(random, 32), lengths)
    if xp.chunk is None or math.prod(lengths) <= xp.chunk:
        return rounded(x, _words(xp, x, random), scales)

    flat, out = x.reshape(-1), None
    flat_random: Any = random
    if xp.owns(random):
        flat_random = flat_random.reshape(-1)
    if scales is not None:
        scales = _each(scales, lambda part: xp.broadcast(part, lengths).reshape(-1))
    for start in range(0, x.size, xp.chunk):
        piece = slice(start, start + xp.chunk)
        result = rounded(
            flat[piece],
            _words(xp, flat[piece], _from(flat_random, start, piece)),
            None if scales is None else _each(scales, lambda part, piece=piece: part[piece]),
        )
        out = np.empty(x.size, result.dtype) if out is None else out
        out[piece] = result
    return xp.reshape(out, lengths)


def _words(xp: Namespace, x: Array, random: RandomBits | Counters | Array | None) -> Array | None:
    """The random words of an array's elements."""
    if isinstance(random, RandomBits | Counters):
        return random.words(xp, xp.lengths(x), x)
    return random


def _from(random: RandomBits | Array | None, start: int, piece: slice) -> RandomBits | Array | None:
    """The random bits of the elements from `start` on, or of a piece of the words."""
    if isinstance(random, RandomBits):
        return replace(random, offset=random.offset + start)
    return None if random is None else random[piece]


def _each(scales: Scales, change: Callable[..., Array]) -> Scales:
    return Scales(
        *(part if part is None or isinstance(part, int) else change(part) for part in scales)
    )
