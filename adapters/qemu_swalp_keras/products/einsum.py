"""Every product of two tensors over named axes, as one of matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

from ..calls.operands import Operands, State
from ..calls.pausing import paused
from .contraction import contract


def expanded(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The axes of each operand and of the result of an einsum equation, one letter each; what an
    ellipsis stands for has letters of its own.

    >>> expanded("...a,ab->...b", [3, 2])
    (['ABa', 'ab'], 'ABb')
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    extra = [
        rank - len(term.replace("...", "")) if "..." in term else 0
        for term, rank in zip(terms, ranks, strict=True)
    ]
    free = [c for c in map(chr, range(ord("A"), ord("Z") + 1)) if c not in equation]
    letters = "".join(free[: max(extra)])
    inputs = [
        term.replace("...", letters[len(letters) - n :])
        for term, n in zip(terms, extra, strict=True)
    ]
    if arrow:
        return inputs, right.replace("...", letters)
    joined = "".join(inputs)
    return inputs, letters + "".join(
        sorted(c for c in set(joined) - set(letters) if joined.count(c) == 1)
    )


def is_product(a: str, b: str, out: str) -> bool:
    """Whether products are summed, or each element of one meets each of the other: else it is an
    elementwise multiplication, of what each was summed to by itself.
    """
    terms = set(a) & set(b) - set(out)
    rows, columns = set(out) & set(a) - set(b), set(out) & set(b) - set(a)
    return bool(terms or (rows and columns))


def contracted(x: Any, w: Any, axes: tuple[str, str, str], operands: Operands, state: State) -> Any:
    """The einsum of x, the input, and w, the weight or in its place; axes: those of x, of w, and of
    the result.

    Axes of both and the result stay (batch); M are the others of x in its order, N those of w, K
    the common ones that are summed over. Axes of one alone that the result lacks are summed first.
    """
    of_x, of_w, out = axes
    with paused():
        x, of_x = summed(x, of_x, of_w + out)
        w, of_w = summed(w, of_w, of_x + out)
        x, of_x, w, of_w = _unbroadcast(x, of_x, w, of_w)
        batch = [c for c in of_x if c in of_w and c in out]
        m = [c for c in of_x if c not in of_w]
        n = [c for c in of_w if c not in of_x]
        k = [c for c in of_x if c in of_w and c not in out]
        sizes = dict(zip(of_w, ops.shape(w), strict=True))
        sizes |= dict(zip(of_x, ops.shape(x), strict=True))
        a = _grouped(x, of_x, (batch, m, k), sizes)
        b = _grouped(w, of_w, (batch, k, n), sizes)
        y = contract(operands, state, a, b)
        order = [*batch, *m, *n]
        y = _reshaped(y, [sizes[c] for c in order])
        missing = [c for c in out if c not in order]
        for c in missing:  # of size 1 in both
            y, order = ops.expand_dims(y, 0), [c, *order]
        return _transposed(y, [order.index(c) for c in out])


def diagonal(x: Any, own: str, einsum: Callable[..., Any]) -> tuple[Any, str]:
    """That of repeated axes, and the axes then."""
    once = "".join(dict.fromkeys(own))
    return (x, own) if once == own else (einsum(f"{own}->{once}", x), once)


def times(x: Any, of_x: str, w: Any, of_w: str, out: str) -> Any:
    """The elementwise product, where every axis of either is one of the result."""
    return ops.multiply(_spread(x, of_x, out), _spread(w, of_w, out))


def _spread(x: Any, own: str, out: str) -> Any:
    x = arranged(x, own, "".join(c for c in out if c in own))
    for axis, c in enumerate(out):
        x = x if c in own else ops.expand_dims(x, axis)
    return x


def arranged(x: Any, own: str, out: str) -> Any:
    """With the same axes in another order."""
    return _transposed(x, [own.index(c) for c in out])


def summed(x: Any, own: str, others: str) -> tuple[Any, str]:
    """Over its axes that others lack, and the axes that are left."""
    lonely = tuple(i for i, c in enumerate(own) if c not in others)
    if not lonely:
        return x, own
    return ops.sum(x, axis=lonely), "".join(c for c in own if c in others)


def _unbroadcast(x: Any, of_x: str, w: Any, of_w: str) -> tuple[Any, str, Any, str]:
    """Without the axes of length 1 that meet longer ones: those are the other's own."""
    for c in set(of_x) & set(of_w):
        i, j = of_x.index(c), of_w.index(c)
        if x.shape[i] != w.shape[j] and 1 in (x.shape[i], w.shape[j]):
            if x.shape[i] == 1:
                x, of_x = ops.squeeze(x, i), of_x.replace(c, "")
            else:
                w, of_w = ops.squeeze(w, j), of_w.replace(c, "")
    return x, of_x, w, of_w


def _grouped(
    x: Any, own: str, groups: tuple[list[str], list[str], list[str]], sizes: dict[str, Any]
) -> Any:
    batch, rows, columns = groups
    x = _transposed(x, [own.index(c) for c in (*batch, *rows, *columns)])
    return _reshaped(x, [*(sizes[c] for c in batch), _prod(sizes, rows), _prod(sizes, columns)])


def _prod(sizes: dict[str, Any], letters: list[str]) -> Any:
    return math.prod(sizes[c] for c in letters)


def _transposed(x: Any, order: list[int]) -> Any:
    return x if order == list(range(len(order))) else ops.transpose(x, order)


def _reshaped(x: Any, shape: list[Any]) -> Any:
    """A shape that a trace leaves open has a tensor in place of a length."""
    if tuple(shape) == tuple(x.shape):
        return x
    open_axes = [i for i, n in enumerate(shape) if not isinstance(n, int)]
    if len(open_axes) == 1:
        shape = [-1 if i in open_axes else n for i, n in enumerate(shape)]
    return ops.reshape(x, shape)
