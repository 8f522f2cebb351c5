"""Layer 4: the bits of a value. Encode and decode (clauses COD)."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

from .backends import Array, Namespace, namespace_of
from .carriers import Carrier, carrier_of
from .engine.binade import round_binade
from .engine.blocks import blocks_shape, over_blocks, shared_exponents, spread
from .engine.table import round_codebook, signed_magnitude
from .formats import BinadeFormat, Block, Codebook, Format, parse
from .quantization import as_array, check_held, element_of
from .rounding import Rounding


class BlockCodes(NamedTuple):
    """The codes of a block format (clause COD-4)."""

    codes: Array
    """Element codes, in the shape of the array."""
    exponents: Array
    """Shared exponent of each block, int8 or int16: reduced axes have length 1, a `size` axis its number of blocks."""


def encode(x: Array, format: Format | str) -> Any:
    """Integer codes of an array whose elements are values of the format: quantize first.

    Returns an array of x's library and shape, uint8, uint16 or uint32 (the least that holds `format.bits`); for block
    formats `BlockCodes`. Raises ValueError where an element is not a value of the format (eager arrays only).

    >>> [hex(code) for code in encode([1.0, -448.0, 0.0], "e4m3fn").tolist()]
    ['0x38', '0xfe', '0x0']
    """
    x = as_array(x)
    xp = namespace_of(x)
    format = parse(format)
    carrier = _carrier(xp.dtype(x), format)
    shape = xp.shape(x)
    element = element_of(format)
    width = _code_width(element.bits)
    lifted = xp.reshape(x, shape or (1,))
    if not isinstance(format, Block):
        if 0 in shape:
            return xp.unsigned(xp.cast(xp.bits(x), 32), width)
        return xp.reshape(xp.unsigned(_codes(xp, lifted, carrier, format, 0), width), shape)
    exponent_width = 8 if format.scale_bits <= 8 else 16
    if 0 in shape:
        exponents = xp.broadcast(xp.table([-(1 << (format.scale_bits - 1))], 32, x), blocks_shape(shape, format))
        return BlockCodes(xp.unsigned(xp.cast(xp.bits(x), 32), width), xp.signed(exponents, exponent_width))
    exponents = _exponents(xp, lifted, carrier, format)
    codes = _codes(xp, lifted, carrier, format, spread(xp, exponents, xp.shape(lifted), format))
    return BlockCodes(xp.reshape(xp.unsigned(codes, width), shape),
                      xp.reshape(xp.signed(exponents, exponent_width), blocks_shape(shape, format)))


def decode(codes: Array, format: Format | str, dtype: str = "float32") -> Any:
    """The values that codes stand for; inverse of `encode`.

    codes : integer array (bits above `format.bits` are ignored, except by codebooks); for block formats `BlockCodes`.
    dtype : "float16", "bfloat16", "float32" or "float64". Raises TypeError where that dtype cannot hold the values.

    >>> import numpy as np
    >>> decode(np.uint8([0x38, 0x7E, 0x01]), "e4m3fn").tolist()
    [1.0, 448.0, 0.001953125]
    """
    format = parse(format)
    exponents = None
    if isinstance(format, Block):
        if not isinstance(codes, tuple) or len(codes) != 2:
            raise TypeError(f"the codes of {format} must be BlockCodes(codes, exponents), got {type(codes).__name__}")
        codes, exponents = codes
    xp = namespace_of(codes)
    if "int" not in xp.dtype(codes):
        raise TypeError(f"codes must be an integer array, got dtype {xp.dtype(codes)}")
    carrier = _carrier(dtype, format)
    shape = xp.shape(codes)
    integers = xp.reshape(xp.cast(codes, carrier.width), shape or (1,))
    if 0 in shape:
        return xp.floats(xp.cast(integers, carrier.storage), dtype)
    scale: Array = 0
    if isinstance(format, Block):
        expected = blocks_shape(shape, format)
        if xp.shape(exponents) != expected:
            raise ValueError(f"codes of shape {shape} in {format} have exponents of shape {expected}, "
                             f"got {xp.shape(exponents)}")
        lifted = xp.reshape(xp.cast(exponents, carrier.width), blocks_shape(xp.shape(integers), format))
        scale = spread(xp, lifted, xp.shape(integers), format)
    element = element_of(format)
    if isinstance(element, Codebook):
        bits = _codebook_bits(xp, integers, carrier, element)
    else:
        bits = _binade_bits(xp, integers, carrier, element, scale)
    return xp.reshape(xp.floats(xp.cast(bits, carrier.storage), dtype), shape)


def _carrier(dtype: str, format: Format) -> Carrier:
    carrier = carrier_of(dtype)
    check_held(format, carrier)
    return carrier.wide() if element_of(format).bits > 31 else carrier


def _code_width(bits: int) -> int:
    return next(width for width in (8, 16, 32) if bits <= width)


def _exponents(xp: Namespace, x: Array, carrier: Carrier, format: Block) -> Array:
    """S of each block by BLK-3, or one less where only that makes all its elements values (clause COD-4)."""
    exponents = shared_exponents(xp, x, carrier, format)
    if format.idempotent:
        return exponents
    wrong = _differs(xp, x, carrier, format, spread(xp, exponents, xp.shape(x), format))
    return exponents - over_blocks(xp, xp.cast(wrong, carrier.width), format)


def _codes(xp: Namespace, x: Array, carrier: Carrier, format: Format, scale: Array) -> Array:
    if xp.concrete(x) and xp.any(_differs(xp, x, carrier, format, scale)):
        raise ValueError(f"encode needs values of {format}, and some elements are not (NaN counts where the format has "
                         f'none); quantize first: encode(quantize(x, "{format}"), "{format}")')
    element = element_of(format)
    if isinstance(element, Codebook):
        return _codebook_codes(xp, x, carrier, element)
    return _binade_codes(xp, x, carrier, element, scale)


def _differs(xp: Namespace, x: Array, carrier: Carrier, format: Format, scale: Array) -> Array:
    """Mask of the elements that are no values of the format, whose blocks have these scales."""
    element = element_of(format)
    mode = Rounding("toward_zero")
    if isinstance(element, Codebook):
        kept = round_codebook(xp, x, carrier, element, mode, None)
    else:
        policy = "infinity" if element.has_infinity else "saturate"
        kept = round_binade(xp, x, carrier, element, policy, mode, None, scale)
    magnitude = xp.cast(xp.bits(x), carrier.width) & ((1 << (carrier.storage - 1)) - 1)
    differs = (xp.bits(kept) != xp.bits(x)) & (magnitude != 0)
    return differs if element.has_nan else differs | (magnitude > carrier.infinity)


def _binade_codes(xp: Namespace, x: Array, carrier: Carrier, format: BinadeFormat, scale: Array) -> Array:
    magnitude, sig, ulp = carrier.split(xp, x)
    negative = carrier.negative(xp, x)
    ulp = ulp - scale
    exponent = carrier.normalize(xp, sig)[0] + ulp
    shift = format.quantum(exponent, xp) - ulp + 0 * sig
    most = carrier.width - 1
    down, up = xp.clip(shift, 0, most), xp.clip(0 - shift, 0, most)
    n = xp.where(shift >= 0, xp.shift_right(sig, down), xp.shift_left(sig, up))
    if not format.has_negative_zero:
        negative = negative & (n != 0)
    codes = format.encode_parts(negative, n, exponent, xp)
    if format.infinity_code is not None:
        sign = format.signed << (format.bits - 1)
        infinity = xp.where(negative, format.infinity_code + sign, codes * 0 + format.infinity_code)
        codes = xp.where(magnitude == carrier.infinity, infinity, codes)
    if format.nan_code is not None:
        codes = xp.where(magnitude > carrier.infinity, format.nan_code, codes)
    return codes


def _binade_bits(xp: Namespace, codes: Array, carrier: Carrier, format: BinadeFormat, scale: Array) -> Array:
    negative, n, q = format.decode_parts(codes, xp)
    exponent, fraction = carrier.normalize(xp, n)
    bits = xp.where(n == 0, 0, carrier.join(xp, exponent + q + scale, fraction))
    infinite, nan = format.special_codes(codes, xp)
    if infinite is not None:
        bits = xp.where(infinite, carrier.infinity, bits)
    if nan is not None:
        bits = xp.where(nan, carrier.infinity + (1 << (carrier.mantissa - 1)), bits)
        negative = negative & ~nan
    return xp.where(negative, bits | -(1 << (carrier.storage - 1)), bits)


def _codebook_codes(xp: Namespace, x: Array, carrier: Carrier, format: Codebook) -> Array:
    bits = xp.cast(xp.bits(x), carrier.width)
    magnitude = bits & ((1 << (carrier.storage - 1)) - 1)
    keys = [signed_magnitude(Fraction(format.entries[code]), carrier) for code in format.order]
    return xp.take(format.order, xp.searchsorted(keys, xp.where(bits < 0, 0 - magnitude, magnitude)) - 1)


def _codebook_bits(xp: Namespace, codes: Array, carrier: Carrier, format: Codebook) -> Array:
    if xp.concrete(codes) and xp.any((codes < 0) | (codes >= len(format.entries))):
        raise ValueError(f"codes of {format} run from 0 to {len(format.entries) - 1}")
    keys = [signed_magnitude(Fraction(v), carrier) for v in format.entries]
    bits = [key if key >= 0 else -key - (1 << (carrier.storage - 1)) for key in keys]
    return xp.take(bits, codes)
