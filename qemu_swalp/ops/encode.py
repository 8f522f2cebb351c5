"""Layer 4: the bits of a value. Encode and decode (clauses COD)."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..arrays import Array, Namespace, namespace_of
from ..arrays.dtypes import SourceDtype, source_dtype
from ..formats import BinadeFormat, Block, Exponent, Format, Overflow, TableFormat, parse
from ..random_bits import RandomBits
from ..reference.block_round import round_elements, times_scale, with_nan
from ..reference.block_scales import Scales, Shared, block_scales, scale_codes, scales_of_codes
from ..reference.blocks import blocks_shape, over_blocks
from ..reference.division import NEAREST, Number
from ..reference.element import round_binade
from ..reference.table import round_table
from ..reference.table_codes import table_codes, table_values
from ..rounding import Rounding
from .quantize import (
    as_array,
    by_chunks,
    check_random,
    check_representable,
    element_of,
    policy_of,
    quantize,
)


class BlockCodes(NamedTuple):
    """The codes of a block format (clause COD-4). The shared parts have the axes of the array, with
    as many entries along each as there are blocks.
    """

    codes: Array
    """Element codes, in the shape of the array."""
    scales: Array
    """Scale of each block: the exponent S as int8 or int16 where the format of the scales is
    `Exponent`, else its code in that format, unsigned.
    """
    second: Array | None = None
    """The array's scale above the blocks' (two levels): its float32 code as uint32, all axes of
    length 1.
    """
    zero_points: Array | None = None
    """Zero point of each block (rule "minmax"), in the dtype of the element codes."""


def encode(
    x: Array,
    format: Format | str,
    rounding: Rounding | str | None = None,
    *,
    random: RandomBits | Array | None = None,
    overflow: Overflow | None = None,
) -> Any:
    """Integer codes of an array.

    Parameters
    ----------
    x : an array whose elements are values of the format; or any array, with a rounding.
    rounding, random, overflow : as for `quantize`, of which `decode` then gives the result. Block
        formats need a rounding unless their scales are powers of two: other scales cannot be told
        from the values alone.

    Returns
    -------
    array of x's library and shape, uint8, uint16 or uint32 (the least that holds `format.bits`);
    for block formats `BlockCodes`.

    Raises
    ------
    TypeError : as for `quantize`.
    ValueError : an element is not a value of the format (eager arrays only); or as for `quantize`.

    >>> [hex(code) for code in encode([1.0, -448.0, 0.0], "e4m3fn").tolist()]
    ['0x38', '0xfe', '0x0']
    >>> codes = encode([0.1, 0.2, -7.0], "mxfp4", "nearest_even")
    >>> codes.codes.tolist(), codes.scales.tolist(), decode(codes, "mxfp4").tolist()
    ([0, 0, 15], [127], [0.0, 0.0, -6.0])
    """
    x = as_array(x)
    xp = namespace_of(x)
    format = parse(format)
    carrier = _carrier(xp.dtype(x), format)
    shape = xp.shape(x)
    if isinstance(format, Block):
        return _encode_blocks(xp, x, carrier, format, rounding, random, overflow)
    if rounding is not None:
        x = quantize(x, format, rounding, random=random, overflow=overflow)
    width = code_width(format.bits)
    if 0 in shape:
        return xp.unsigned(xp.cast(xp.bits(x), 32), width)
    codes = by_chunks(
        xp,
        xp.reshape(x, shape or (1,)),
        NEAREST,
        None,
        None,
        lambda part, words, scales: xp.unsigned(_codes(xp, part, carrier, format), width),
    )
    return xp.reshape(codes, shape)


def decode(codes: Array, format: Format | str, dtype: str = "float32") -> Any:
    """The values that codes stand for; inverse of `encode`.

    codes : integer array (bits above `format.bits` are ignored, except by tables); for block
        formats `BlockCodes`.
    dtype : "float16", "bfloat16", "float32" or "float64". Raises TypeError where that dtype cannot
        hold the values.

    >>> import numpy as np
    >>> decode(np.uint8([0x38, 0x7E, 0x01]), "e4m3fn").tolist()
    [1.0, 448.0, 0.001953125]
    """
    format = parse(format)
    if isinstance(format, Block):
        return _decode_blocks(codes, format, dtype)
    xp = namespace_of(codes)
    integers, shape, carrier = _integers(xp, codes, format, dtype)
    element = element_of(format)
    if isinstance(element, TableFormat):
        bits = table_values(xp, integers, carrier, element)
    else:
        bits = _binade_bits(xp, integers, carrier, element, 0)
    return xp.reshape(xp.floats(xp.cast(bits, carrier.storage), dtype), shape)


def _integers(
    xp: Namespace, codes: Array, format: Format, dtype: str
) -> tuple[Array, tuple[int, ...], SourceDtype]:
    """Element codes as integers of the carrier, of at least one dimension; the shape that they had;
    the carrier.
    """
    if "int" not in xp.dtype(codes):
        raise TypeError(f"codes must be an integer array, got dtype {xp.dtype(codes)}")
    carrier = _carrier(dtype, format)
    shape = xp.shape(codes)
    return xp.reshape(xp.cast(codes, carrier.width), shape or (1,)), shape, carrier


def _carrier(dtype: str, format: Format) -> SourceDtype:
    carrier = source_dtype(dtype)
    check_representable(format, carrier)
    return carrier.wide() if element_of(format).bits > 31 else carrier


def _encode_blocks(
    xp: Namespace,
    x: Array,
    carrier: SourceDtype,
    format: Block,
    rounding: Rounding | str | None,
    random: RandomBits | Array | None,
    overflow: Overflow | None,
) -> BlockCodes:
    shape = xp.shape(x)
    lifted = xp.reshape(x, shape or (1,))
    if rounding is None and not format.powers:
        raise ValueError(
            f"the scales of {format} cannot be told from values alone; give the array as it was"
            ' before quantization, and the rounding: encode(x, format, "nearest_even")'
        )
    policy, mode = policy_of(format, overflow), Rounding.parse(rounding or "nearest_even")
    if rounding is not None:
        check_random(xp, x, mode, random)
    shared = block_scales(xp, lifted, carrier, format)
    if rounding is None and 0 not in shape:
        shared = _shared_by_values(xp, lifted, carrier, format, shared)
    over = shared.scales.over_elements(xp, xp.shape(lifted), format)
    width, blocks = code_width(format.bits), blocks_shape(shape, format)
    if rounding is not None:
        check_representable(format.element, carrier)

    def coded(part: Array, words: Array | None, scales: Scales | None) -> Array:
        scales = scales or Scales()
        if rounding is None:
            return xp.unsigned(_codes(xp, part, carrier, format, scales), width)
        elements = round_elements(xp, part, carrier, format, policy, mode, words, scales)
        return xp.unsigned(_element_codes(xp, elements, carrier, format, scales), width)

    if 0 in shape:
        codes = xp.unsigned(xp.cast(xp.bits(lifted), 32), width)
    else:
        codes = by_chunks(xp, lifted, mode, random, over, coded)
    scale_width = code_width(format.scale.bits)
    scales, (_, _, _, zero_point, _) = scale_codes(xp, carrier, format, shared), shared.scales
    stored = (
        xp.signed(scales, scale_width)
        if isinstance(format.scale, Exponent)
        else xp.unsigned(scales, scale_width)
    )
    return BlockCodes(
        xp.reshape(codes, shape),
        xp.reshape(stored, blocks),
        (
            None
            if shared.second is None
            else xp.reshape(xp.unsigned(shared.second, 32), (1,) * len(shape))
        ),
        None if zero_point is None else xp.reshape(xp.unsigned(zero_point, width), blocks),
    )


def _shared_by_values(
    xp: Namespace, x: Array, carrier: SourceDtype, format: Block, shared: Shared
) -> Shared:
    """The scales that the rule gives, or one power of two less or more where only that makes all
    elements of a block values (clause COD-4).
    """
    if format.idempotent and format.rule == "floor":
        return shared
    found = shared.own.exponent
    for step in (-1, 2):
        over = shared.scales._replace(exponent=found).over_elements(xp, xp.shape(x), format)
        wrong = _differs(xp, x, carrier, format, over)
        found = found + step * over_blocks(xp, xp.cast(wrong, carrier.width), format)
    found = xp.clip(found, *(format.powers or (0, 0)))
    return Shared(shared.scales._replace(exponent=found), Number(found, None))


def _element_codes(
    xp: Namespace, elements: Array, carrier: SourceDtype, format: Block, scales: Scales
) -> Array:
    """Codes of what `round_elements` gave; 0 where the block is NaN."""
    if scales.nan is not None:
        elements = xp.floats(xp.where(scales.nan, 0, xp.bits(elements)), carrier.name)
    if scales.zero_point is None:
        return _codes(xp, elements, carrier, format.element)
    _, sig, ulp = carrier.split(xp, elements)
    n = xp.shift_left(
        xp.shift_right(sig, xp.clip(0 - ulp, 0, carrier.width - 1)), xp.clip(ulp, 0, format.bits)
    )
    codes = scales.zero_point + xp.where(carrier.negative(xp, elements), 0 - n, n)
    return codes if scales.nan is None else xp.where(scales.nan, 0, codes)


def _decode_blocks(codes: Any, format: Block, dtype: str) -> Any:
    if not isinstance(codes, tuple) or not 2 <= len(codes) <= 4:
        raise TypeError(
            f"the codes of {format} must be BlockCodes(codes, scales, …), got"
            f" {type(codes).__name__}"
        )
    given = BlockCodes(*codes)
    xp = namespace_of(given.codes)
    integers, shape, carrier = _integers(xp, given.codes, format, dtype)
    blocks = blocks_shape(shape, format)
    parts = {
        "scales": (blocks, True),
        "second": ((1,) * len(shape), format.second is not None),
        "zero_points": (blocks, format.rule == "minmax"),
    }
    for name, (expected, needed) in parts.items():
        part = getattr(given, name)
        if (part is not None) != needed:
            raise ValueError(f"the codes of {format} {'lack' if needed else 'have no'} {name}")
        if needed and xp.shape(part) != expected:
            raise ValueError(
                f"codes of shape {shape} in {format} have {name} of shape {expected}, "
                f"got {xp.shape(part)}"
            )
    if 0 in shape:
        return xp.floats(xp.cast(integers, carrier.storage), dtype)
    lifted = xp.shape(integers)
    shared = [
        (
            None
            if part is None
            else xp.reshape(
                xp.cast(part, carrier.width),
                (1,) * len(lifted) if name == "second" else blocks_shape(lifted, format),
            )
        )
        for name, part in zip(("scales", "second", "zero_points"), given[1:], strict=True)
    ]
    scales = scales_of_codes(xp, carrier, format, *shared).over_elements(xp, lifted, format)
    if format.powers:
        values = xp.floats(
            xp.cast(
                _binade_bits(xp, integers, carrier, format.element, scales.exponent),
                carrier.storage,
            ),
            dtype,
        )
    else:
        bits = _binade_bits(xp, integers, carrier, format.element, 0)
        if scales.zero_point is not None:
            n = (integers & ((1 << format.bits) - 1)) - scales.zero_point
            exponent, fraction = carrier.normalize(xp, xp.abs(n))
            bits = xp.where(n == 0, 0, carrier.join(xp, exponent, fraction))
            bits = xp.where(n < 0, bits | -(1 << (carrier.storage - 1)), bits)
        elements = xp.floats(xp.cast(bits, carrier.storage), dtype)
        values = times_scale(xp, elements, carrier, format, scales.number)
    return xp.reshape(with_nan(xp, values, carrier, scales.nan), shape)


def code_width(bits: int) -> int:
    """Bits of the least unsigned dtype that holds such codes (clause COD-2)."""
    return next(width for width in (8, 16, 32) if bits <= width)


def _codes(
    xp: Namespace, x: Array, carrier: SourceDtype, format: Format, scales: Scales | None = None
) -> Array:
    """Codes of an array of values, whose blocks have these scales (powers of two)."""
    scales = scales or Scales()
    if xp.concrete(x) and xp.any(_differs(xp, x, carrier, format, scales)):
        raise ValueError(
            f"encode needs values of {format}, and some elements are not (NaN counts where the"
            " format has "
            f'none); quantize first: encode(quantize(x, "{format}"), "{format}")'
        )
    element = element_of(format)
    if isinstance(element, TableFormat):
        return table_codes(xp, x, carrier, element)
    codes = _binade_codes(xp, x, carrier, element, scales.exponent)
    return codes if scales.nan is None else xp.where(scales.nan, 0, codes)


def _differs(
    xp: Namespace, x: Array, carrier: SourceDtype, format: Format, scales: Scales
) -> Array:
    """Mask of the elements that are no values of the format, whose blocks have these scales."""
    element = element_of(format)
    mode = Rounding("toward_zero")
    policy = "infinity" if element.has_infinity else "saturate"
    if isinstance(element, TableFormat):
        kept = round_table(xp, x, carrier, element, policy, mode, None)
    else:
        kept = round_binade(xp, x, carrier, element, policy, mode, None, scales.exponent)
    magnitude = xp.cast(xp.bits(x), carrier.width) & ((1 << (carrier.storage - 1)) - 1)
    nan = magnitude > carrier.infinity
    sign_of_zero = (magnitude == 0) & (
        xp.bits(kept) == 0
    )  # -0 has the code of 0 where the format has no -0
    differs = (xp.bits(kept) != xp.bits(x)) & ~sign_of_zero
    if not element.has_nan:
        differs = differs | nan
    return differs if scales.nan is None else (differs & ~scales.nan) | (scales.nan & ~nan)


def _binade_codes(
    xp: Namespace, x: Array, carrier: SourceDtype, format: BinadeFormat, scale: Array
) -> Array:
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


def _binade_bits(
    xp: Namespace, codes: Array, carrier: SourceDtype, format: BinadeFormat, scale: Array
) -> Array:
    negative, n, q = format.decode_parts(codes, xp)
    exponent, fraction = carrier.normalize(xp, n)
    bits = xp.where(n == 0, 0, carrier.join(xp, exponent + q + scale, fraction))
    infinite, nan = format.special_codes(codes, xp)
    if infinite is not None:
        bits = xp.where(infinite, carrier.infinity, bits)
    if nan is not None:
        bits = xp.where(nan, carrier.nan, bits)
        negative = negative & ~nan
    return xp.where(negative, bits | -(1 << (carrier.storage - 1)), bits)
