"""The reference implementation of `quantize`: a program for `Namespace.run`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..arrays import Array, Namespace
from ..arrays.dtypes import SourceDtype
from ..formats import Block, Squeezed, TableFormat
from ..random_bits import Counters, RandomBits
from ..rounding import Rounding
from .block_round import round_scaled
from .block_scales import Scales
from .context import Context, Target
from .element import round_binade
from .given_scales import Given
from .shared_scales import block_scales
from .squeezed import squeeze_of, squeezed, unsqueezed
from .table import round_table


def by_reference(
    xp: Namespace,
    dtype: SourceDtype,
    target: Target,
    x: Array,
    random: RandomBits | Counters | Array | None,
    given: Given | None = None,
) -> Array:
    """x rounded to the target, under the scales that are given, if any; x has elements, and
    arguments have been checked."""
    ctx, format = Context(xp, dtype), target.format
    shape = xp.lengths(x)
    lifted = xp.reshape(x, shape or (1,))
    if isinstance(format, Squeezed):
        squeeze = squeeze_of(ctx, lifted, format)
        y = squeezed(ctx, lifted, squeeze)
        inner = target._replace(format=format.element)
        rounded_y = by_reference(xp, squeeze.dtype, inner, y, random)
        return xp.reshape(unsqueezed(ctx, lifted, rounded_y, squeeze), shape)
    scales = None
    if isinstance(format, Block):
        shared = block_scales(ctx, lifted, format, target.policy, given)
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
