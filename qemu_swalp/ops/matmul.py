"""Matrix products with every partial sum rounded (clauses SUM of `spec/semantics.md`)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import numpy as np

from .. import kernels
from .._typing import ArrayT
from .._util.autograph import no_autograph
from ..arrays import Array, Namespace, namespace_of
from ..arrays.dtypes import source_dtype
from ..random_bits import PRODUCT, SUM, TOTAL, RandomBits
from ..reference.context import BINARY64, Context
from ..reference.round_to_odd import narrowed, odd_sum, widened
from .accumulation import MOST_TERMS, Accumulation
from .arguments import as_arrays, check_like, check_representable
from .quantize import round_array
from .quantizer import Quantizer


@no_autograph
def matmul(
    a: ArrayT,
    b: Any,
    accumulation: Accumulation | Quantizer | str,
    *,
    random: RandomBits | None = None,
) -> ArrayT:
    """a·b, summed up in low precision: s ← Q(s + a_ik·b_kj), k from 0 on, each rounded once from
    its exact value.

    Parameters
    ----------
    a, b : arrays of one library and dtype, of shapes (…, M, K) and (…, K, N) whose leading axes
        broadcast; float16, bfloat16, float32 or float64. They are taken as they are: round operands
        before.
    accumulation : an `Accumulation`, or its string, such as "fp16/nearest_even" or
        "float<6,9>/nearest_even; chunk=64".
    random : for stochastic rounding, which random bits.

    Returns
    -------
    array of that library and dtype, of shape (…, M, N). A PyTorch result carries no gradient.

    Raises
    ------
    TypeError: if the operands are not floating arrays of one library and dtype, or if that dtype
        does not represent the values of the sums' format.
    ValueError: if the shapes do not fit, or if stochastic rounding has no `random`.

    Products of float64 numbers are rounded to float64 before all else. JAX needs jax_enable_x64.

    >>> import numpy as np
    >>> a, b = np.full((1, 4096), 0.75, np.float32), np.ones((4096, 1), np.float32)
    >>> matmul(a, b, "fp16/nearest_even").item(), matmul(a, b, "fp16/nearest_even; chunk=64").item()
    (2048.0, 3072.0)
    """
    a, b = as_arrays(a, b)
    xp, accumulation = namespace_of(a), Accumulation.parse(accumulation)
    ctx, shape = Context(xp, source_dtype(xp.dtype(a))), _shape(xp, a, b)
    for quantizer in (accumulation.sum, accumulation.of_chunks):
        if quantizer is not None:
            check_representable(quantizer.format, ctx.dtype)
    if accumulation.product is not None:
        check_representable(accumulation.product.format, BINARY64)
    if not accumulation.stochastic:
        random = None
    elif isinstance(random, RandomBits):
        random.check_reach(shape)
    else:
        raise ValueError(
            f"{accumulation} needs random=RandomBits(seed, stream, step), with another stream for"
            f" every product and another step for every call, got {random!r}"
        )
    if math.prod(shape) == 0 or xp.shape(a)[-1] == 0:
        return cast(ArrayT, xp.zeros(shape, a))
    result = kernels.matmul(xp, a, b, accumulation.targets, random)
    if result is None:
        with np.errstate(all="ignore"):
            wide = widened(ctx, a), widened(ctx, b)
            result = narrowed(ctx, _accumulated(xp, *wide, accumulation, random))
    return cast(ArrayT, result)


def _shape(xp: Namespace, a: Array, b: Array) -> tuple[int, ...]:
    """Of a·b. TypeError, ValueError for arrays that do not fit."""
    check_like(xp, "b", b, "a", a)
    shapes = (m, n) = xp.shape(a), xp.shape(b)
    if len(m) < 2 or len(n) < 2 or m[-1] != n[-2]:
        raise ValueError(f"a and b must have shapes (…, M, K) and (…, K, N), got {m} and {n}")
    if m[-1] > MOST_TERMS:
        raise ValueError(f"a product may sum up {MOST_TERMS} terms, got {m[-1]}")
    try:
        leading = np.broadcast_shapes(*(shape[:-2] for shape in shapes))
    except ValueError:
        raise ValueError(
            f"the leading axes of a and b must broadcast, got shapes {m} and {n}"
        ) from None
    return (*leading, m[-2], n[-1])


def _accumulated(
    xp: Namespace, a: Array, b: Array, accumulation: Accumulation, random: RandomBits | None
) -> Array:
    """The reference implementation, in float64."""
    terms, group, sums = xp.shape(a)[-1], accumulation.group, 0
    chunk, of_chunks = accumulation.chunk or terms, accumulation.of_chunks

    def rounded(x: Array, quantizer: Quantizer, kind: int, number: int) -> Array:
        bits = None if random is None else replace(random, part=(number, kind))
        return round_array(Context(xp, BINARY64), x, quantizer.target, bits)

    total = partial = None
    for start in range(0, terms, chunk):
        partial, end = None, min(start + chunk, terms)
        for k in range(start, end):
            product = a[..., k : k + 1] * b[..., k : k + 1, :]
            if accumulation.product is not None:
                product = rounded(product, accumulation.product, PRODUCT, k)
            partial = odd_sum(xp, partial, product)
            if (k + 1 - start) % group == 0 or k + 1 == end:
                partial, sums = rounded(partial, accumulation.sum, SUM, sums), sums + 1
        if of_chunks is not None:
            total = rounded(odd_sum(xp, total, partial), of_chunks, TOTAL, start // chunk)
    return partial if of_chunks is None else total
