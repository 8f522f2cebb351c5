"""Layer 4: formats and rounding applied to arrays."""

from __future__ import annotations

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
             random: RandomBits | Array | None = None, overflow: Overflow | None = None, out: Array | None = None) -> Any:
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
    words = _words(xp, x, shape, rounding, random)
    if out is not None:
        _check_out(xp, out, shape, carrier)
    result = x
    if 0 not in shape:
        flat = xp.reshape(x, shape or (1,))
        words = None if words is None else xp.reshape(words, shape or (1,))
        result = xp.reshape(_round(xp, flat, carrier, format, policy, rounding, words), shape)
    return result if out is None else xp.write(out, result)


def as_array(x: Array) -> Array:
    """Python numbers and (nested) lists as NumPy float32; anything else as it is."""
    return np.asarray(x, np.float32) if isinstance(x, int | float | list | tuple) else x


def element_of(format: Format) -> BinadeFormat | Codebook:
    """The format of the elements: a block format's, or the format itself."""
    element = format.element if isinstance(format, Block) else format
    if not isinstance(element, BinadeFormat | Codebook):
        raise TypeError(f"{type(format).__name__} must derive from BinadeFormat, Codebook or Block to be rounded to")
    return element


@lru_cache(maxsize=4096)
def check_held(format: Format, carrier: Carrier) -> None:
    """TypeError unless arrays of the carrier's dtype hold the values of the format (clause SRC-1)."""
    holder = next((c.name for c in CARRIERS.values() if c.precision >= carrier.precision and not _lacking(format, c)), None)
    lacking = _lacking(format, carrier)
    if lacking:
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


def _words(xp: Namespace, x: Array, shape: tuple[int, ...], rounding: Rounding,
           random: RandomBits | Array | None) -> Array | None:
    if not rounding.stochastic:
        return None
    if random is None:
        raise ValueError(f"rounding {rounding} needs random=: RandomBits(seed, stream, step), with another stream for "
                         "every tensor and another step for every call, or an array of 32-bit random words")
    if isinstance(random, RandomBits):
        return random.words(xp, shape, x)
    if not xp.owns(random) or xp.shape(random) != shape or "int32" not in xp.dtype(random):
        raise ValueError(f"random words must be a uint32 or int32 {xp.name} array of shape {shape}, got {random!r}")
    return xp.cast(random, 32)


def _check_out(xp: Namespace, out: Array, shape: tuple[int, ...], carrier: Carrier) -> None:
    if not xp.owns(out):
        raise TypeError(f"out must be a {xp.name} array like x, got {type(out).__module__}.{type(out).__qualname__}")
    if xp.shape(out) != shape or xp.dtype(out) != carrier.name:
        raise ValueError(f"out must have x's shape {shape} and dtype {carrier.name}, got {xp.shape(out)} and {xp.dtype(out)}")


def _round(xp: Namespace, x: Array, carrier: Carrier, format: Format, policy: Overflow, rounding: Rounding,
           words: Array | None) -> Array:
    if isinstance(format, Block):
        scale = spread(xp, shared_exponents(xp, x, carrier, format), xp.shape(x), format)
        return round_binade(xp, x, carrier, format.element, policy, rounding, words, scale)
    element = element_of(format)
    if isinstance(element, Codebook):
        return round_codebook(xp, x, carrier, element, rounding, words)
    return round_binade(xp, x, carrier, element, policy, rounding, words)
