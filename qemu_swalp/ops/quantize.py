"""Formats and rounding applied to arrays."""

from __future__ import annotations

from typing import Any, overload

import numpy as np

from .. import kernels
from .._typing import ArrayT, Numbers
from .._util.autograph import no_autograph
from ..arrays import Array, namespace_of
from ..arrays.dtypes import source_dtype
from ..formats import Format, Overflow, parse
from ..random_bits import RandomBits
from ..reference.blocks import is_empty
from ..reference.context import Context, Target
from ..reference.given_scales import Given
from ..reference.overflow import MARK
from ..reference.quantize import by_reference
from ..rounding import Rounding
from .arguments import as_array, check_out, check_random, target_of
from .given import check_given


@overload
def quantize(
    x: Numbers,
    format: Format | str,
    rounding: Rounding | str = ...,
    *,
    random: RandomBits | Array | None = ...,
    overflow: Overflow | None = ...,
    out: np.ndarray | None = ...,
    scales: Any = ...,
    zero_points: Any = ...,
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
    scales: Any = ...,
    zero_points: Any = ...,
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
    scales: Any = None,
    zero_points: Any = None,
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
    scales : the scales of a block format's blocks, instead of those that its rule computes (clause
        BLK-16). A positive number, or an array of x's library or NumPy with one for each block. It
        has the shape of `BlockCodes.scales`, or that without the axes that a block spans, as (n,)
        for axis=0. They are rounded to the format of scales, to nearest even.
    zero_points : integers from 0 to 2^W - 1 in such shapes, for formats with zero points.

    Returns
    -------
    array of x's library, shape and dtype (`out`, where given). A PyTorch result carries no
    gradient; of a tensor on the device "meta" it is one, without values.

    Raises
    ------
    TypeError: if x is not a dense floating array, or if its dtype does not represent the format's
        values.
    ValueError: if the format, rounding or policy is unknown; if stochastic rounding has no
        `random`; if x lacks an axis of the blocks; if `out` does not fit x or requires a gradient;
        if scales or zero points do not fit the format or the blocks. (In a traced graph a scale
        that is none makes its block NaN.)

    >>> import numpy as np
    >>> quantize(np.float32([0.1, 1.3, 500.0]), "e4m3fn").tolist()
    [0.1015625, 1.25, 448.0]
    >>> random = RandomBits(seed=0)
    >>> quantize(np.float32([0.1, 1.3, 500.0]), "bfp8", "stochastic", random=random).tolist()
    [0.0, 4.0, 500.0]
    >>> x, affine = np.float32([0.1, 1.3, 500.0]), "int<8,zero_point>"
    >>> quantize(x, affine, scales=0.5, zero_points=8).tolist()
    [0.0, 1.5, 123.5]
    """
    format, rounding = parse(format), Rounding.parse(rounding)
    x = as_array(x, format)
    xp = namespace_of(x)
    ctx = Context(xp, source_dtype(xp.dtype(x)))
    target = target_of(format, rounding, overflow, ctx.dtype)
    check_random(xp, x, rounding, random)
    if out is not None:
        check_out(xp, x, out, ctx.dtype)
    given = check_given(ctx, x, format, scales, zero_points)
    return round_array(ctx, x, target, random, out, given)


def round_array(
    ctx: Context,
    x: Array,
    target: Target,
    random: RandomBits | Array | None,
    out: Array | None = None,
    given: Given | None = None,
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
        result = kernels.quantize(xp, x, dtype, target, random, out, given)
        if result is not None:
            return result
    if xp.chunk is None and isinstance(random, RandomBits):
        random = random.counters(xp, lengths)
    result = xp.run(by_reference, (dtype, target), x, random, given)
    return result if out is None else xp.write(out, result)
