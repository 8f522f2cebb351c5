"""Layer 4: formats and rounding applied to arrays."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from .backends import Array, Namespace, namespace_of
from .carriers import CARRIERS, Carrier, carrier_of
from .engine.binade import round_binade
from .engine.blocks import shared_exponents, spread
from .engine.table import round_codebook
from .formats import BinadeFormat, Block, Codebook, Format, Overflow, parse
from .randombits import RandomBits
from .rounding import Rounding


def quantize(x: Array, format: Format | str, rounding: Rounding | str = "nearest_even", *,
             random: RandomBits | Array | None = None, overflow: Overflow | None = None,
             out: Array | None = None) -> Any:
    """Round every element of an array to a number format (clauses RND and BLK of `spec/semantics.md`).

    Parameters
    ----------
    x : array of NumPy, CuPy, PyTorch, TensorFlow or JAX; float16, bfloat16, float32 or float64; any shape and strides.
        Python numbers and lists are taken as NumPy float32.
    format : a `Format`, or a string such as "e4m3fn", "fixed<8,6>", "bfp<8,axis=0>".
    rounding : a `Rounding`, or a string such as "nearest_even", "toward_zero", "stochastic", "stochastic_b<8>".
    random : for stochastic rounding, which random bits: `RandomBits(seed, stream, step)`; or an integer array of x's
        shape that holds a 32-bit random word for each element.
    overflow : "saturate", "infinity" or "nan", instead of the format's own policy.
    out : array to write to, of x's shape and dtype; may be x.

    Returns
    -------
    array of x's library, shape and dtype (`out`, where given). A PyTorch result carries no gradient.

    Raises
    ------
    TypeError : x is no floating array; its dtype cannot hold the format's values.
    ValueError : unknown format, rounding or policy; stochastic rounding without `random`; a block axis that x lacks.

    >>> import numpy as np
    >>> quantize(np.float32([0.1, 1.3, 500.0]), "e4m3fn").tolist()
    [0.1015625, 1.25, 448.0]
    >>> quantize(np.float32([0.1, 1.3, 500.0]), "bfp8", "stochastic", random=RandomBits(seed=0)).tolist()
    [0.0, 4.0, 500.0]
    """
    x = as_array(x)
    xp = namespace_of(x)
    format, rounding = parse(format), Rounding.parse(rounding)
    carrier = carrier_of(xp.dtype(x))
    check_held(format, carrier)
    policy = _policy(format, overflow)
    shape = xp.shape(x)
    _check_random(xp, shape, rounding, random)
    if out is not None:
        _check_out(xp, out, shape, carrier)
    result = x if 0 in shape else _quantize(xp, x, carrier, format, policy, rounding, random)
    return result if out is None else xp.write(out, result)


def as_array(x: Array) -> Array:
    """Python numbers and (nested) lists as NumPy float32; anything else as it is."""
    plain = isinstance(x, int | float | list | tuple) and not isinstance(x, np.generic)
    return np.asarray(x, np.float32) if plain else x


def element_of(format: Format) -> BinadeFormat | Codebook:
    """The format of the elements: a block format's, or the format itself."""
    element = format.element if isinstance(format, Block) else format
    if not isinstance(element, BinadeFormat | Codebook):
        raise TypeError(f"{type(format).__name__} must derive from BinadeFormat, Codebook or Block to be rounded to")
    return element


@lru_cache(maxsize=4096)
def check_held(format: Format, carrier: Carrier) -> None:
    """TypeError unless arrays of the carrier's dtype hold the values of the format (clause SRC-1)."""
    lacking = _lacking(format, carrier)
    if lacking:
        holder = next((c.name for c in CARRIERS.values() if not _lacking(format, c)), None)
        remedy = f"convert it to {holder}" if holder else "no supported dtype holds them"
        raise TypeError(f"an array of {carrier.name} cannot hold the values of {format}: it lacks {lacking}; {remedy}")


def _lacking(format: Format, carrier: Carrier) -> str:
    """What the carrier lacks to hold the values of the format; "" if nothing."""
    element = element_of(format)
    if element.precision > carrier.precision:
        return f"precision ({element.precision} bits, it has {carrier.precision})"
    if isinstance(format, Block):
        return ""
    if element.least_exponent < carrier.least_exponent:
        return f"small values (multiples of 2^{element.least_exponent}, it has 2^{carrier.least_exponent})"
    if max(element.max, -element.min) > carrier.max:
        return f"range (up to {max(element.max, -element.min):g}, it has {carrier.max:g})"
    return ""


def _policy(format: Format, overflow: Overflow | None) -> Overflow:
    element = element_of(format)
    if overflow is None:
        return element.overflow
    element.check_overflow(overflow)
    return overflow


def _check_random(xp: Namespace, shape: tuple[int, ...], rounding: Rounding, random: RandomBits | Array | None) -> None:
    if not rounding.stochastic or isinstance(random, RandomBits):
        return
    if random is None:
        raise ValueError(f"rounding {rounding} needs random=: RandomBits(seed, stream, step), with another stream for "
                         "every tensor and another step for every call, or an array of 32-bit random words")
    if not xp.owns(random) or xp.shape(random) != shape or "int32" not in xp.dtype(random):
        got = f"{xp.dtype(random)} of shape {xp.shape(random)}" if xp.owns(random) else type(random).__qualname__
        raise ValueError(f"random must be RandomBits, or a uint32 or int32 {xp.name} array of shape {shape}, got {got}")


def _check_out(xp: Namespace, out: Array, shape: tuple[int, ...], carrier: Carrier) -> None:
    if not xp.owns(out):
        raise TypeError(f"out must be a {xp.name} array like x, got {type(out).__module__}.{type(out).__qualname__}")
    if xp.shape(out) != shape or xp.dtype(out) != carrier.name:
        raise ValueError(f"out must have x's shape {shape} and dtype {carrier.name}, "
                         f"got {xp.shape(out)} and {xp.dtype(out)}")


def _quantize(xp: Namespace, x: Array, carrier: Carrier, format: Format, policy: Overflow, rounding: Rounding,
              random: RandomBits | Array | None) -> Array:
    shape = xp.shape(x)
    lifted = xp.reshape(x, shape or (1,))
    scale: Array = 0
    if isinstance(format, Block):
        scale = spread(xp, shared_exponents(xp, lifted, carrier, format), xp.shape(lifted), format)
    element = element_of(format)

    def rounded(part: Array, bits: RandomBits | Array | None, scale: Array) -> Array:
        words = bits.words(xp, xp.shape(part), part) if isinstance(bits, RandomBits) else bits
        if isinstance(element, Codebook):
            return round_codebook(xp, part, carrier, element, rounding, words)
        return round_binade(xp, part, carrier, element, policy, rounding, words, scale)

    random = random if rounding.stochastic else None
    if random is not None and not isinstance(random, RandomBits):
        random = xp.reshape(xp.cast(random, 32), xp.shape(lifted))
    count = math.prod(shape)
    if xp.chunk is None or count <= xp.chunk:
        return xp.reshape(rounded(lifted, random, scale), shape)
    return _by_chunks(xp, lifted, random, scale, xp.chunk, rounded).reshape(shape)


def _by_chunks(xp: Namespace, x: Array, random: RandomBits | Array | None, scale: Array, size: int,
               rounded: Callable[[Array, RandomBits | Array | None, Array], Array]) -> Array:
    """The elementwise part in pieces that stay in the cache; the same bits, since random bits go by element number."""
    flat = x.reshape(-1)
    scales = scale if isinstance(scale, int) else xp.broadcast(scale, x.shape).reshape(-1)
    words = random if random is None or isinstance(random, RandomBits) else random.reshape(-1)
    out = np.empty_like(flat)
    for start in range(0, flat.size, size):
        part = slice(start, start + size)
        bits = replace(words, offset=words.offset + start) if isinstance(words, RandomBits) else (
            None if words is None else words[part])
        out[part] = rounded(flat[part], bits, scales if isinstance(scales, int) else scales[part])
    return out
