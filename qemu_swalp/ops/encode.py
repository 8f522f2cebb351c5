"""The bits of a value: `encode` (clauses COD)."""

from __future__ import annotations

from typing import Any, overload

from .._typing import ArrayT
from .._util.autograph import no_autograph
from ..arrays import Array, Namespace, namespace_of
from ..formats import (
    BinadeFormat,
    Block,
    ElementFormat,
    Exponent,
    Format,
    Overflow,
)
from ..random_bits import RandomBits
from ..reference.block_codes import (
    element_codes,
    lacking_code,
    shared_by_values,
)
from ..reference.block_round import round_elements
from ..reference.block_scales import Scales, Shared
from ..reference.blocks import blocks_shape
from ..reference.codes import codes_of_values, differs, without_code
from ..reference.context import Context, Target, element_of
from ..reference.given_scales import Given
from ..reference.quantize import by_chunks, by_reference
from ..reference.scale_codes import minimum_codes, scale_codes
from ..reference.shared_scales import block_scales
from ..rounding import NEAREST, Rounding
from .arguments import as_array, check_random, check_representable, policy_of
from .codes import BlockCodes, code_width, codes_context, with_codes
from .encode_errors import LacksCode, check_codes, no_code_error
from .given import check_given
from .quantize import quantize


@overload
def encode(
    x: Any,
    format: Block,
    rounding: Rounding | str | None = ...,
    *,
    random: RandomBits | Array | None = ...,
    overflow: Overflow | None = ...,
    scales: Any = ...,
    zero_points: Any = ...,
) -> BlockCodes: ...


@overload
def encode(
    x: ArrayT,
    format: ElementFormat,
    rounding: Rounding | str | None = ...,
    *,
    random: RandomBits | Array | None = ...,
    overflow: Overflow | None = ...,
    scales: Any = ...,
    zero_points: Any = ...,
) -> ArrayT: ...


@overload
def encode(
    x: Any,
    format: Format | str,
    rounding: Rounding | str | None = ...,
    *,
    random: RandomBits | Array | None = ...,
    overflow: Overflow | None = ...,
    scales: Any = ...,
    zero_points: Any = ...,
) -> Any: ...


@no_autograph
def encode(
    x: Any,
    format: Format | str,
    rounding: Rounding | str | None = None,
    *,
    random: RandomBits | Array | None = None,
    overflow: Overflow | None = None,
    scales: Any = None,
    zero_points: Any = None,
) -> Any:
    """Integer codes of an array.

    Parameters
    ----------
    x : an array whose elements are values of the format; or any array, with a rounding.
    rounding, random, overflow : as for `quantize`, of which `decode` then gives the result. Block
        formats need a rounding unless their scales are powers of two by a rule of amax, and their
        elements no table. Other scales cannot be told from the values alone.
    scales, zero_points : as for `quantize`; they need a rounding too.

    Returns
    -------
    array of x's library and shape, uint8, uint16 or uint32 (the least that holds `format.bits`);
    for block formats `BlockCodes`.

    Raises
    ------
    TypeError: as for `quantize`.
    ValueError: if an element is no value of the format, or is an infinity or NaN that becomes
        none with a code (eager arrays only); or as for `quantize`.

    >>> import qemu_swalp as q
    >>> [hex(code) for code in encode([1.0, -448.0, 0.0], "e4m3fn").tolist()]
    ['0x38', '0xfe', '0x0']
    >>> codes = encode([0.1, 0.2, -7.0], "mxfp4", "nearest_even")
    >>> codes.codes.tolist(), codes.scales.tolist(), q.decode(codes, "mxfp4").tolist()
    ([0, 0, 15], [127], [0.0, 0.0, -6.0])
    """
    format = with_codes(format)
    x = as_array(x, format)
    xp = namespace_of(x)
    ctx = codes_context(xp, xp.dtype(x), format)
    shape = xp.shape(x)
    given = check_given(ctx, x, format, scales, zero_points)
    if isinstance(format, Block):
        policy = policy_of(format, overflow)
        if rounding is None and given is not None:
            raise ValueError(
                'scales= need a rounding, as in encode(x, format, "nearest_even", scales=…)'
            )
        if rounding is None:
            return _encode_values(ctx, x, format)
        target = Target(format, policy, Rounding.parse(rounding))
        check_random(xp, x, target.rounding, random)
        return _encode_rounded(ctx, x, format, target, random, given)
    values = x
    if rounding is not None:
        values = quantize(x, format, rounding, random=random, overflow=overflow)
    width = code_width(format.bits)
    if 0 in shape:
        return _no_codes(xp, x, width)

    def wrong(part: Array, words: Array | None, scales: Scales | None) -> Array:
        if rounding is None:
            return differs(ctx, part, format, Scales())
        return without_code(ctx, part, element_of(format))

    def codes_of(part: Array, words: Array | None, scales: Scales | None) -> Array:
        check_codes(xp, wrong(part, words, scales))
        return xp.unsigned(codes_of_values(ctx, part, format), width)

    lifted = xp.reshape(values, shape or (1,))
    try:
        codes = by_chunks(xp, lifted, NEAREST, None, None, codes_of)
    except LacksCode:
        mask = by_chunks(xp, lifted, NEAREST, None, None, wrong)
        raise no_code_error(format, rounding, x, values, mask) from None
    return xp.reshape(codes, shape)


def _encode_values(ctx: Context, x: Array, format: Block) -> BlockCodes:
    """Codes of an array of values of the format."""
    xp, shape = ctx.xp, ctx.xp.shape(x)
    if not format.tells_scales:
        raise ValueError(
            f"the scales of {format} cannot be told from values alone; give the array as it was"
            ' before quantization, and the rounding: encode(x, format, "nearest_even")'
        )
    lifted, width = xp.reshape(x, shape or (1,)), code_width(format.bits)
    if 0 in shape:
        shared = block_scales(ctx, lifted, format, "propagate")
        return _block_codes(ctx, _no_codes(xp, x, width), format, shared)

    def wrong(part: Array, words: Array | None, scales: Scales | None) -> Array:
        return differs(ctx, part, format, scales or Scales())

    def codes_of(part: Array, words: Array | None, scales: Scales | None) -> Array:
        check_codes(xp, wrong(part, words, scales))
        return xp.unsigned(codes_of_values(ctx, part, format, scales), width)

    shared = shared_by_values(ctx, lifted, format)
    over = shared.scales.over_elements(xp, xp.shape(lifted), format)
    try:
        codes = by_chunks(xp, lifted, NEAREST, None, over, codes_of)
    except LacksCode:
        mask = by_chunks(xp, lifted, NEAREST, None, over, wrong)
        raise no_code_error(format, None, x, x, mask) from None
    return _block_codes(ctx, xp.reshape(codes, shape), format, shared)


def _encode_rounded(
    ctx: Context,
    x: Array,
    format: Block,
    target: Target,
    random: RandomBits | Array | None,
    given: Given | None,
) -> BlockCodes:
    """Codes of an array that is rounded to the format."""
    xp, shape = ctx.xp, ctx.xp.shape(x)
    if isinstance(format.element, BinadeFormat):
        check_representable(format.element, ctx.dtype)
    lifted, width = xp.reshape(x, shape or (1,)), code_width(format.bits)
    shared = block_scales(ctx, lifted, format, target.policy, given)
    if 0 in shape:
        return _block_codes(ctx, _no_codes(xp, x, width), format, shared)

    def lacking(part: Array, words: Array | None, scales: Scales | None) -> Array:
        scales = scales or Scales()
        elements = round_elements(ctx, part, format, target, words, scales)
        return lacking_code(ctx, elements, format, scales)

    def codes_of(part: Array, words: Array | None, scales: Scales | None) -> Array:
        scales = scales or Scales()
        elements = round_elements(ctx, part, format, target, words, scales)
        check_codes(xp, lacking_code(ctx, elements, format, scales))
        return xp.unsigned(element_codes(ctx, elements, format, scales), width)

    over = shared.scales.over_elements(xp, xp.shape(lifted), format)
    try:
        codes = by_chunks(xp, lifted, target.rounding, random, over, codes_of)
    except LacksCode:
        values = by_reference(xp, ctx.dtype, target, x, random, given)
        mask = by_chunks(xp, lifted, target.rounding, random, over, lacking)
        raise no_code_error(format, target.rounding, x, values, mask) from None
    return _block_codes(ctx, xp.reshape(codes, shape), format, shared)


def _no_codes(xp: Namespace, x: Array, width: int) -> Array:
    """The codes of an array without elements."""
    return xp.unsigned(xp.cast(xp.bits(x), 32), width)


def _block_codes(ctx: Context, codes: Array, format: Block, shared: Shared) -> BlockCodes:
    """The element codes, with what the blocks share in its dtypes and shapes."""
    xp, shape = ctx.xp, ctx.xp.shape(codes)
    blocks, scale_width = blocks_shape(shape, format), code_width(format.scale.bits)
    scales = scale_codes(ctx, format, shared)
    store = xp.signed if isinstance(format.scale, Exponent) else xp.unsigned
    second, zero_points = shared.global_scale, shared.scales.zero_point
    if zero_points is None:
        zero_points = minimum_codes(ctx, format, shared)
    if second is not None:
        second = xp.reshape(xp.unsigned(second, 32), (1,) * len(shape))
    if zero_points is not None:
        zero_points = xp.reshape(
            xp.unsigned(zero_points, code_width(format.zero_point_bits or 0)), blocks
        )
    return BlockCodes(codes, xp.reshape(store(scales, scale_width), blocks), second, zero_points)
