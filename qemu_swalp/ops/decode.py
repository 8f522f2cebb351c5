"""The values that codes stand for (clauses COD)."""

from __future__ import annotations

from typing import Any, overload

import numpy as np

from .._typing import ArrayT
from .._util.autograph import no_autograph
from ..arrays import Array, Namespace, namespace_of
from ..formats import Block, Format, TableFormat
from ..formats.dtypes import dtype_name
from ..reference.block_codes import block_values
from ..reference.block_round import with_nan
from ..reference.blocks import blocks_shape
from ..reference.codes import binade_bits
from ..reference.context import Context, element_of
from ..reference.scale_codes import scales_of_codes
from ..reference.table_codes import table_values
from .arguments import as_array
from .codes import BlockCodes, codes_context, with_codes


@overload
def decode(codes: BlockCodes, format: Format | str, dtype: Any = ...) -> Any: ...


@overload
def decode(codes: ArrayT, format: Format | str, dtype: Any = ...) -> ArrayT: ...


@no_autograph
def decode(codes: Any, format: Format | str, dtype: Any = "float32") -> Any:
    """The values that codes stand for; inverse of `encode`.

    codes : integer array (bits above `format.bits` are ignored, except by tables); for block
        formats `BlockCodes`.
    dtype : "float16", "bfloat16", "float32" or "float64", or a dtype object of an array library.
        TypeError if that dtype does not represent the values.

    >>> import numpy as np
    >>> decode(np.uint8([0x38, 0x7E, 0x01]), "e4m3fn").tolist()
    [1.0, 448.0, 0.001953125]
    """
    format, dtype = with_codes(format), dtype_name(dtype) or dtype
    if isinstance(format, Block):
        return _decode_blocks(codes, format, dtype)
    codes = _code_array("codes", codes)
    xp = namespace_of(codes)
    ctx = codes_context(xp, dtype, format)
    integers, shape = _integers(ctx, codes)
    element = element_of(format)
    if isinstance(element, TableFormat):
        bits = table_values(ctx, integers, element)
    else:
        bits = binade_bits(ctx, integers, element)
    return xp.reshape(ctx.floats(bits), shape)


def _code_array(name: str, codes: Any) -> Array:
    """An argument as an array of codes. TypeError unless it is an integer array."""
    if isinstance(codes, int | list) and not isinstance(codes, bool):
        codes = np.asarray(codes)
    codes = as_array(codes, name=name)
    dtype = namespace_of(codes).dtype(codes)
    if "int" not in dtype or dtype.startswith("q"):
        raise TypeError(f"{name} must be an integer array, got dtype {dtype}")
    return codes


def _integers(ctx: Context, codes: Array) -> tuple[Array, tuple[int, ...]]:
    """Element codes as integers of at least one dimension, and the shape that they had."""
    xp = ctx.xp
    shape = xp.shape(codes)
    return xp.reshape(xp.cast(codes, ctx.dtype.width), shape or (1,)), shape


def _decode_blocks(codes: Any, format: Block, dtype: str) -> Any:
    if not isinstance(codes, tuple) or not 2 <= len(codes) <= 4:
        raise TypeError(
            f"the codes of {format} must be BlockCodes(codes, scales, …), got"
            f" {type(codes).__name__}"
        )
    parts = BlockCodes(
        *(
            None if part is None else _code_array(name, part)
            for name, part in zip(BlockCodes._fields, codes, strict=False)
        )
    )
    xp = namespace_of(parts.codes)
    ctx = codes_context(xp, dtype, format)
    integers, shape = _integers(ctx, parts.codes)
    _check_parts(xp, parts, format, shape)
    if 0 in shape:
        return ctx.floats(integers)
    lifted = xp.shape(integers)
    shapes = (blocks_shape(lifted, format), (1,) * len(lifted), blocks_shape(lifted, format))
    shared = (
        None if part is None else xp.reshape(xp.cast(part, ctx.dtype.width), lengths)
        for part, lengths in zip(parts[1:], shapes, strict=True)
    )
    scales = scales_of_codes(ctx, format, *shared).over_elements(xp, lifted, format)
    values = block_values(ctx, integers, format, scales)
    return xp.reshape(with_nan(ctx, values, scales.nan), shape)


def _check_parts(xp: Namespace, parts: BlockCodes, format: Block, shape: tuple[int, ...]) -> None:
    """ValueError unless the codes have the parts of the format, in the shapes of its blocks."""
    blocks = blocks_shape(shape, format)
    expected = {
        "scales": (blocks, True),
        "second": ((1,) * len(shape), format.second is not None),
        "zero_points": (blocks, format.zero_point_bits is not None),
    }
    for name, (lengths, needed) in expected.items():
        part = getattr(parts, name)
        if (part is not None) != needed:
            raise ValueError(f"the codes of {format} {'lack' if needed else 'have no'} {name}")
        if needed and not xp.owns(part):
            raise TypeError(
                f"{name} must be a {xp.name} array like the codes of the elements, got"
                f" {type(part).__module__}.{type(part).__qualname__}; convert it"
            )
        if needed and xp.shape(part) != lengths:
            raise ValueError(
                f"codes of shape {shape} in {format} have {name} of shape {lengths}, "
                f"got {xp.shape(part)}"
            )
