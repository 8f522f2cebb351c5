"""Elementary operations rounded once from their exact values (clauses OPS of
`spec/semantics.md`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np

from .. import kernels
from .._typing import ArrayT, Numbers
from .._util.autograph import no_autograph
from .._util.checks import check_bool
from ..arrays import Array, Namespace, namespace_of
from ..arrays.dtypes import SourceDtype, source_dtype
from ..formats import Format
from ..random_bits import RandomBits
from ..reference.context import BINARY64, Context, Target
from ..reference.round_to_odd import narrowed, odd_quotient, odd_root, odd_sum, widened
from .accumulation import Accumulation, check_element
from .arguments import as_array, as_arrays, check_like, check_representable
from .matmul import matmul
from .quantize import round_array
from .quantizer import Quantizer


@dataclass(frozen=True)
class Operation:
    """What is done in float64: to operands of at most 24 significant bits rounded to odd, to others
    to nearest.
    """

    name: str
    odd: Callable[..., Array]
    near: Callable[..., Array]


ADD = Operation("add", odd_sum, odd_sum)
SUBTRACT = Operation(
    "subtract", lambda xp, a, b: odd_sum(xp, a, -b), lambda xp, a, b: odd_sum(xp, a, -b)
)
MULTIPLY = Operation("multiply", lambda xp, a, b: a * b, lambda xp, a, b: a * b)
DIVIDE = Operation("divide", odd_quotient, lambda xp, a, b: a / b)
SQRT = Operation("sqrt", odd_root, lambda xp, x: xp.sqrt(x))


@no_autograph
def add(
    a: ArrayT,
    b: ArrayT | Numbers,
    quantizer: Quantizer | Format | str,
    *,
    random: RandomBits | None = None,
) -> ArrayT:
    """Q(a + b), rounded once from the exact sum.

    Parameters
    ----------
    a, b : arrays of one library and dtype, whose shapes broadcast; float16, bfloat16, float32 or
        float64. A Python number beside an array is of its dtype.
    quantizer : of an element format, such as "bf16/nearest_even".
    random : for stochastic rounding, which random bits; a word for each element of the result.

    Returns
    -------
    array of that library and dtype. A PyTorch result carries no gradient.

    Raises
    ------
    TypeError: if the operands are not floating arrays of one library and dtype, or if that dtype
        does not represent the format's values.
    ValueError: if the shapes do not broadcast, if the format is a block format, or if stochastic
        rounding has no `random`.

    Of float64 numbers products, quotients and roots are rounded to float64 before all else; sums
    are not. TensorFlow and JAX take float64's subnormal numbers for zeros. JAX needs
    jax_enable_x64.

    >>> import numpy as np
    >>> x = np.float32([256.0, 1.0])
    >>> add(x, np.float32(1.0), "bf16/nearest_even").tolist()
    [256.0, 2.0]
    >>> add(x, np.float32(1.0), "bf16/toward_positive").tolist()
    [258.0, 2.0]
    """
    return cast(ArrayT, _operate(ADD, quantizer, random, a, b))


@no_autograph
def subtract(
    a: ArrayT,
    b: ArrayT | Numbers,
    quantizer: Quantizer | Format | str,
    *,
    random: RandomBits | None = None,
) -> ArrayT:
    """Q(a - b); as `add`."""
    return cast(ArrayT, _operate(SUBTRACT, quantizer, random, a, b))


@no_autograph
def multiply(
    a: ArrayT,
    b: ArrayT | Numbers,
    quantizer: Quantizer | Format | str,
    *,
    random: RandomBits | None = None,
) -> ArrayT:
    """Q(a·b); as `add`."""
    return cast(ArrayT, _operate(MULTIPLY, quantizer, random, a, b))


@no_autograph
def divide(
    a: ArrayT,
    b: ArrayT | Numbers,
    quantizer: Quantizer | Format | str,
    *,
    random: RandomBits | None = None,
) -> ArrayT:
    """Q(a/b); as `add`.

    >>> import numpy as np
    >>> divide(np.float32([1.0, 2.0]), np.float32(3.0), "e4m3fn/toward_zero").tolist()
    [0.3125, 0.625]
    """
    return cast(ArrayT, _operate(DIVIDE, quantizer, random, a, b))


@no_autograph
def sqrt(
    x: ArrayT, quantizer: Quantizer | Format | str, *, random: RandomBits | None = None
) -> ArrayT:
    """Q(√x), of one array; as `add`. NaN below zero, -0 of -0."""
    return cast(ArrayT, _operate(SQRT, quantizer, random, x))


@no_autograph
def sum(
    x: ArrayT,
    accumulation: Accumulation | Quantizer | str,
    *,
    axis: int | Sequence[int] | None = -1,
    keepdims: bool = False,
    random: RandomBits | None = None,
) -> ArrayT:
    """The sum over axes, each partial sum rounded: `matmul` with ones, which says what the other
    arguments are.

    axis : one, several, or None for all; elements of several are added up in C order.

    Raises ValueError if x has no such axis or one is named twice, TypeError if one is no integer.

    >>> import numpy as np
    >>> sum(np.ones((2, 300), np.float32), "bf16/nearest_even").tolist()
    [256.0, 256.0]
    """
    check_bool("keepdims", keepdims)
    array = as_array(x)
    xp = namespace_of(array)
    source_dtype(xp.dtype(array))
    shape = xp.shape(array)
    summed = _axes(axis, len(shape))
    kept = [i for i in range(len(shape)) if i not in summed]
    first = summed[0] if summed else len(shape)
    if summed != list(range(first, first + len(summed))):
        array, first = xp.permuted(array, [*kept, *summed]), len(kept)
    before, count, after = (
        math.prod(shape[i] for i in axes) for axes in (kept[:first], summed, kept[first:])
    )
    if after == 1:  # the kernels go through columns side by side
        columns = xp.transposed(xp.reshape(array, (before, count)))
    else:
        columns = xp.reshape(array, (before, count, after))
    totals = matmul(xp.zeros((1, count), array) + 1, columns, accumulation, random=random)
    lengths = [1 if i in summed else n for i, n in enumerate(shape) if keepdims or i in kept]
    return cast(ArrayT, xp.reshape(totals, lengths))


def _axes(axis: int | Sequence[int] | None, count: int) -> list[int]:
    """Numbers of axes from 0, in order."""
    if axis is None:
        return list(range(count))
    axes = list(axis) if isinstance(axis, Sequence) else [axis]
    for each in axes:
        if isinstance(each, bool) or not isinstance(each, int | np.integer):
            raise TypeError(f"axis must be an integer, several of them or None, got {axis!r}")
        if not -count <= each < count:
            raise ValueError(f"axis must be one of the {count} axes of x, got {axis}")
    found = sorted({int(each) % count for each in axes})
    if len(found) < len(axes):
        raise ValueError(f"axis must name each axis once, got {axis}")
    return found


def _operate(
    operation: Operation,
    quantizer: Quantizer | Format | str,
    random: RandomBits | None,
    *operands: Array,
) -> Any:
    """Q of the operation, for arrays that are yet to be checked."""
    quantizer, arrays = Quantizer.parse(quantizer), as_arrays(*operands)
    xp, shape = _common(arrays)
    ctx = Context(xp, source_dtype(xp.dtype(arrays[0])))
    target = target_of(quantizer, ctx.dtype)
    if quantizer.rounding.stochastic and not isinstance(random, RandomBits):
        raise ValueError(
            f"{quantizer} needs random=RandomBits(seed, stream, step), with another stream for"
            f" every operation and another step for every call, got {random!r}"
        )
    random = random if quantizer.rounding.stochastic else None
    if shape is not None and 0 not in shape:
        if random is not None:
            random.check_reach(shape)
        result = kernels.operate(xp, operation.name, arrays, shape, target, random)
        if result is not None:
            return result
    with np.errstate(all="ignore"):
        wide = [widened(ctx, x) for x in arrays]
        if shape is not None:
            wide = [xp.broadcast(x, shape or (1,)) for x in wide]
        value = (operation.near if ctx.dtype == BINARY64 else operation.odd)(xp, *wide)
        result = narrowed(ctx, round_array(ctx.of(BINARY64), value, target, random))
        return result if shape is None else xp.reshape(result, shape)


@lru_cache(maxsize=1024)
def target_of(quantizer: Quantizer, dtype: SourceDtype) -> Target:
    """What the quantizer rounds to, once it has been checked."""
    check_element("the quantizer", quantizer)
    check_representable(quantizer.format, dtype)
    return quantizer.target


def _common(operands: Sequence[Array]) -> tuple[Namespace, tuple[int, ...] | None]:
    """Library and shape of the result, None where a trace leaves lengths open. TypeError,
    ValueError for arrays that do not fit.
    """
    a, *others = operands
    xp = namespace_of(a)
    for b in others:
        check_like(xp, "b", b, "a", a)
    if isinstance(a, np.ndarray) and all(a.shape == b.shape for b in others):
        return xp, a.shape
    if not all(isinstance(n, int) for x in operands for n in xp.lengths(x)):
        return xp, None
    shapes = [xp.shape(x) for x in operands]
    try:
        return xp, np.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(
            f"the shapes of a and b must broadcast, got {shapes[0]} and {shapes[1]}"
        ) from None
