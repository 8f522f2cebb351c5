"""Layer 4: formats and rounding applied to arrays."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from .. import kernels
from ..arrays import Array, Namespace, namespace_of
from ..arrays.dtypes import SOURCE_DTYPES, SourceDtype, source_dtype
from ..formats import BinadeFormat, Block, Format, Overflow, TableFormat, parse
from ..random_bits import Counters, RandomBits
from ..reference.block_round import round_scaled
from ..reference.block_scales import Scales, block_scales
from ..reference.blocks import is_empty
from ..reference.element import round_binade
from ..reference.overflow import MARK
from ..reference.table import round_table
from ..rounding import Rounding


def quantize(
    x: Array,
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
        shape and strides. Python numbers and lists are taken as NumPy float32.
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
    gradient.

    Raises
    ------
    TypeError : x is no floating array; its dtype cannot hold the format's values.
    ValueError : unknown format, rounding or policy; stochastic rounding without `random`; a block
        axis that x lacks.

    >>> import numpy as np
    >>> quantize(np.float32([0.1, 1.3, 500.0]), "e4m3fn").tolist()
    [0.1015625, 1.25, 448.0]
    >>> quantize(np.float32([0.1, 1.3, 500.0]), "bfp8", "stochastic", random=RandomBits(seed=0)).tolist()
    [0.0, 4.0, 500.0]
    """
    x = as_array(x)
    xp = namespace_of(x)
    format, rounding = parse(format), Rounding.parse(rounding)
    carrier = source_dtype(xp.dtype(x))
    check_representable(format, carrier)
    policy = policy_of(format, overflow)
    check_random(xp, x, rounding, random)
    if out is not None:
        _check_out(xp, x, out, carrier)
    return round_array(xp, x, carrier, format, policy, rounding, random, out)


def round_array(
    xp: Namespace,
    x: Array,
    carrier: SourceDtype,
    format: Format,
    policy: str,
    rounding: Rounding,
    random: RandomBits | Array | None,
    out: Array | None = None,
) -> Array:
    """`quantize` of arguments that have been checked; the policy may also be
    `engine.overflow.MARK`.
    """
    random = random if rounding.stochastic else None
    lengths = xp.lengths(x)
    if isinstance(random, RandomBits):
        random.check_reach(lengths)
    if is_empty(lengths):
        return x if out is None else xp.write(out, x)
    found = (
        kernels.quantize(xp, x, carrier, format, policy, rounding, random, out)
        if policy != MARK
        else None
    )
    if found is not None:
        return found
    if xp.chunk is None and isinstance(random, RandomBits):
        random = random.counters(xp, lengths)
    result = xp.run(_quantize, (carrier, format, policy, rounding), x, random)
    return result if out is None else xp.write(out, result)


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


def element_of(format: Format) -> BinadeFormat | TableFormat:
    """The format of the elements: a block format's, or the format itself."""
    element = format.element if isinstance(format, Block) else format
    if not isinstance(element, BinadeFormat | TableFormat):
        raise TypeError(
            f"{type(format).__name__} must derive from BinadeFormat, TableFormat or Block to be"
            " rounded to"
        )
    return element


@lru_cache(maxsize=4096)
def check_representable(format: Format, carrier: SourceDtype) -> None:
    """TypeError unless arrays of the carrier's dtype hold the values of the format (clause
    SRC-1).
    """
    if isinstance(format, Block) and format.second is not None and carrier.width > 32:
        raise TypeError(
            f"{format} is defined by float32 steps, and {carrier.name} has more; convert it to"
            " float32"
        )
    lacking = _lacking(format, carrier)
    if lacking:
        holder = next((c.name for c in SOURCE_DTYPES.values() if not _lacking(format, c)), None)
        remedy = f"convert it to {holder}" if holder else "no supported dtype holds them"
        raise TypeError(
            f"an array of {carrier.name} cannot hold the values of {format}: it lacks {lacking};"
            f" {remedy}"
        )


def _lacking(format: Format, carrier: SourceDtype) -> str:
    """What the carrier lacks to hold the values of the format (clause SRC-1); "" if nothing."""
    element = element_of(format)
    if element.precision > carrier.precision:
        return f"precision ({element.precision} bits, it has {carrier.precision})"
    if isinstance(format, Block) and format.powers:
        return ""
    if element.least_exponent < carrier.least_exponent:
        return (
            f"small values (multiples of 2^{element.least_exponent}, it has"
            f" 2^{carrier.least_exponent})"
        )
    if max(element.max, -element.min) > carrier.max:
        return f"range (up to {max(element.max, -element.min):g}, it has {carrier.max:g})"
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
    """ValueError unless there are random bits where the rounding takes them."""
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


def _check_out(xp: Namespace, x: Array, out: Array, carrier: SourceDtype) -> None:
    if not xp.owns(out):
        raise TypeError(
            f"out must be a {xp.name} array like x, got"
            f" {type(out).__module__}.{type(out).__qualname__}"
        )
    if not xp.same_shape(out, x) or xp.dtype(out) != carrier.name:
        raise ValueError(
            f"out must have x's shape {tuple(x.shape)} and dtype {carrier.name}, "
            f"got {tuple(out.shape)} and {xp.dtype(out)}"
        )


def _quantize(
    xp: Namespace,
    carrier: SourceDtype,
    format: Format,
    policy: str,
    rounding: Rounding,
    x: Array,
    random: RandomBits | Counters | Array | None,
) -> Array:
    shape = xp.lengths(x)
    lifted = xp.reshape(x, shape or (1,))
    scales = None
    if isinstance(format, Block):
        scales = block_scales(xp, lifted, carrier, format).scales.over_elements(
            xp, xp.lengths(lifted), format
        )

    def rounded(part: Array, words: Array | None, scales: Scales | None) -> Array:
        if isinstance(format, Block):
            return round_scaled(
                xp, part, carrier, format, policy, rounding, words, scales or Scales()
            )
        element = element_of(format)
        if isinstance(element, TableFormat):
            return round_table(xp, part, carrier, element, policy, rounding, words)
        return round_binade(xp, part, carrier, element, policy, rounding, words)

    return xp.reshape(by_chunks(xp, lifted, rounding, random, scales, rounded), shape)


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
    if not rounding.stochastic or random is None:
        random = None
    elif not isinstance(random, RandomBits | Counters):
        random = xp.reshape(xp.cast(random, 32), lengths)

    def words(part: Array, bits: RandomBits | Counters | Array | None) -> Array | None:
        return (
            bits.words(xp, xp.lengths(part), part)
            if isinstance(bits, RandomBits | Counters)
            else bits
        )

    if xp.chunk is None or math.prod(lengths) <= xp.chunk:
        return rounded(x, words(x, random), scales)
    flat, out = x.reshape(-1), None
    bits = (
        random
        if random is None or isinstance(random, RandomBits | Counters)
        else random.reshape(-1)
    )
    flat_scales = (
        None
        if scales is None
        else _each(scales, lambda part: xp.broadcast(part, lengths).reshape(-1))
    )
    for start in range(0, x.size, xp.chunk):
        part = slice(start, start + xp.chunk)
        own = (
            replace(bits, offset=bits.offset + start)
            if isinstance(bits, RandomBits)
            else (None if bits is None else bits[part])
        )
        shared = (
            None
            if flat_scales is None
            else _each(flat_scales, lambda whole, part=part: whole[part])
        )
        piece = rounded(flat[part], words(flat[part], own), shared)
        out = np.empty(x.size, piece.dtype) if out is None else out
        out[part] = piece
    return xp.reshape(out, lengths)


def _each(scales: Scales, change: Callable[..., Array]) -> Scales:
    return Scales(
        *(part if part is None or isinstance(part, int) else change(part) for part in scales)
    )
