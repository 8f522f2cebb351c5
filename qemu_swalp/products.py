"""Layer 4: matrix products with every partial sum rounded (clauses SUM of `spec/semantics.md`)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from . import kernels
from .accumulation import MOST_TERMS, Accumulation
from .backends import Array, Namespace, namespace_of
from .carriers import CARRIERS, Carrier, carrier_of
from .quantization import as_array, check_held, policy_of, round_array
from .quantizer import Quantizer
from .randombits import PRODUCT, SUM, TOTAL, RandomBits

DOUBLE = CARRIERS["float64"]
MAGNITUDE = 2**63 - 1


def matmul(a: Array, b: Array, accumulation: Accumulation | Quantizer | str, *,
           random: RandomBits | None = None) -> Any:
    """a·b, summed up in low precision: s ← Q(s + a_ik·b_kj), k from 0 on, each rounded once from its exact value.

    Parameters
    ----------
    a, b : arrays of one library and dtype, of shapes (…, M, K) and (…, K, N) whose leading axes broadcast; float16,
        bfloat16, float32 or float64. They are taken as they are: round operands before.
    accumulation : an `Accumulation`, or its string, such as "fp16/nearest_even" or "float<6,9>/nearest_even; chunk=64".
    random : for stochastic rounding, which random bits.

    Returns
    -------
    array of that library and dtype, of shape (…, M, N). A PyTorch result carries no gradient.

    Raises
    ------
    TypeError : no floating arrays, or of two libraries or dtypes; a dtype that cannot hold the sums' format.
    ValueError : shapes that do not fit; stochastic rounding without `random`.

    Products of float64 numbers are rounded to float64 before all else. JAX needs jax_enable_x64.

    >>> import numpy as np
    >>> a, b = np.full((1, 4096), 0.75, np.float32), np.ones((4096, 1), np.float32)
    >>> matmul(a, b, "fp16/nearest_even").item(), matmul(a, b, "fp16/nearest_even; chunk=64").item()
    (2048.0, 3072.0)
    """
    a, b = as_array(a), as_array(b)
    xp, accumulation = namespace_of(a), Accumulation.parse(accumulation)
    carrier, shape = carrier_of(xp.dtype(a)), _shape(xp, a, b)
    for quantizer in (accumulation.sum, accumulation.of_chunks):
        if quantizer is not None:
            check_held(quantizer.format, carrier)
    if accumulation.product is not None:
        check_held(accumulation.product.format, DOUBLE)
    if not accumulation.stochastic:
        random = None
    elif isinstance(random, RandomBits):
        random.check_reach(shape)
    else:
        raise ValueError(f"{accumulation} needs random=RandomBits(seed, stream, step), with another stream for every "
                         f"product and another step for every call, got {random!r}")
    if math.prod(shape) == 0 or xp.shape(a)[-1] == 0:
        return xp.zeros(shape, a)
    found = kernels.matmul(xp, a, b, accumulation.rules, random)
    if found is not None:
        return found
    with np.errstate(all="ignore"):
        a, b = _widened(xp, a, carrier), _widened(xp, b, carrier)
        return _narrowed(xp, _summed(xp, a, b, accumulation, random), carrier)


def _shape(xp: Namespace, a: Array, b: Array) -> tuple[int, ...]:
    """Of a·b. TypeError, ValueError for arrays that do not fit."""
    if not xp.owns(b) or xp.dtype(b) != xp.dtype(a):
        got = xp.dtype(b) if xp.owns(b) else f"{type(b).__module__}.{type(b).__qualname__}"
        raise TypeError(f"b must be a {xp.name} array of {xp.dtype(a)} like a, got {got}")
    shapes = (m, n) = xp.shape(a), xp.shape(b)
    if len(m) < 2 or len(n) < 2 or m[-1] != n[-2]:
        raise ValueError(f"a and b must have shapes (…, M, K) and (…, K, N), got {m} and {n}")
    if m[-1] > MOST_TERMS:
        raise ValueError(f"a product may sum up {MOST_TERMS} terms, got {m[-1]}")
    try:
        leading = np.broadcast_shapes(*(shape[:-2] for shape in shapes))
    except ValueError:
        raise ValueError(f"the leading axes of a and b must broadcast, got shapes {m} and {n}") from None
    return (*leading, m[-2], n[-1])


def _summed(xp: Namespace, a: Array, b: Array, accumulation: Accumulation, random: RandomBits | None) -> Array:
    """The array program, in float64."""
    terms, group, sums = xp.shape(a)[-1], accumulation.group, 0
    chunk, of_chunks = accumulation.chunk or terms, accumulation.of_chunks

    def rounded(x: Array, quantizer: Quantizer, kind: int, number: int) -> Array:
        bits = None if random is None else replace(random, part=(number, kind))
        policy = policy_of(quantizer.format, None)
        return round_array(xp, x, DOUBLE, quantizer.format, policy, quantizer.rounding, bits)

    total = partial = None
    for start in range(0, terms, chunk):
        partial, end = None, min(start + chunk, terms)
        for k in range(start, end):
            product = a[..., k : k + 1] * b[..., k : k + 1, :]
            if accumulation.product is not None:
                product = rounded(product, accumulation.product, PRODUCT, k)
            partial = _odd_sum(xp, partial, product)
            if (k + 1 - start) % group == 0 or k + 1 == end:
                partial, sums = rounded(partial, accumulation.sum, SUM, sums), sums + 1
        if of_chunks is not None:
            total = rounded(_odd_sum(xp, total, partial), of_chunks, TOTAL, start // chunk)
    return partial if of_chunks is None else total


def _widened(xp: Namespace, x: Array, carrier: Carrier) -> Array:
    """In float64. By bits: TensorFlow and JAX convert subnormal numbers to zero."""
    return x if carrier is DOUBLE else _recoded(xp, x, carrier.wide(), DOUBLE)


def _narrowed(xp: Namespace, x: Array, carrier: Carrier) -> Array:
    """In a dtype that holds the values."""
    return x if carrier is DOUBLE else _recoded(xp, x, DOUBLE, carrier.wide())


def _recoded(xp: Namespace, x: Array, source: Carrier, target: Carrier) -> Array:
    magnitude, sig, ulp = source.split(xp, x)
    binade, fraction = target.normalize(xp, sig)
    bits = xp.where(sig == 0, 0, target.join(xp, binade + ulp, fraction))
    bits = xp.where(magnitude < source.infinity, bits, target.infinity)
    bits = xp.where(magnitude > source.infinity, target.nan, bits)
    bits = xp.where(source.negative(xp, x), bits | -(1 << (target.storage - 1)), bits)
    return xp.floats(xp.cast(bits, target.storage), target.name)


def _odd_sum(xp: Namespace, a: Array | None, b: Array) -> Array:
    """a + b rounded to odd in float64 (clause SUM-3): what Knuth's TwoSum finds left of the sum shows in its last bit.

    a : None for +0, which TensorFlow's graphs would not add to a -0.
    """
    if a is None:
        bits = xp.bits(b)
        return xp.floats(xp.where((bits & MAGNITUDE) == 0, 0, bits), DOUBLE.name)
    total = a + b
    of_b = total - a
    left = (a - (total - of_b)) + (b - of_b)
    bits, rest = xp.bits(total), xp.bits(left)
    inexact = ((rest & MAGNITUDE) != 0) & ((bits & MAGNITUDE) < DOUBLE.infinity)
    toward = xp.where((bits ^ rest) < 0, 0 * bits - 1, 1)
    return xp.floats(xp.where(inexact & ((bits & 1) == 0), bits + toward, bits), DOUBLE.name)
