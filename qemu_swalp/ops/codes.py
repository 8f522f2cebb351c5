"""Codes of formats: which have them, how wide they are, and those of blocks (clauses COD)."""

from __future__ import annotations

from typing import NamedTuple

from ..arrays import Array, Namespace
from ..arrays.dtypes import source_dtype
from ..formats import Format, Squeezed, parse
from ..reference.context import Context, element_of
from .arguments import check_representable


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
    """Zero point of each block (rule "minmax"), in the dtype of the element codes; under
    "ggml_minimum" the code of its minimum in the format of scales.
    """


def with_codes(format: Format | str) -> Format:
    """A format as itself or its string. ValueError if its numbers have no integer codes."""
    format = parse(format)
    if isinstance(format, Squeezed):
        raise ValueError(
            f"{format} has no integer codes: what they stand for would depend on powers that array"
            " libraries compute differently in their last bits; keep the values that quantize gives"
        )
    return format


def code_width(bits: int) -> int:
    """Bits of the least unsigned dtype that has such codes (clause COD-2).

    Raises ValueError if codes have more than 32 bits.
    """
    if bits > 32:
        raise ValueError(f"codes have at most 32 bits, and this format has {bits}; keep the values")
    return next(width for width in (8, 16, 32) if bits <= width)


def codes_context(xp: Namespace, dtype: str, format: Format) -> Context:
    """For codes of the format, with integers that have their bits."""
    source = source_dtype(dtype)
    check_representable(format, source)
    bits = element_of(format).bits
    code_width(bits)
    return Context(xp, source.wide() if bits > 31 else source)
