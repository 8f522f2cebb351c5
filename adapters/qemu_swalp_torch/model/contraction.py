"""Contractions of several axes as products of matrices: `einsum`, `tensordot`, `bilinear`."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .frames import Frame, is_weight
from .multiply import multiply, multiply_transposed, plus


def einsum(
    frame: Frame, function: Callable[..., Any], *arguments: Any, path: object = None
) -> Tensor:
    """As `torch.einsum`; of more than two operands the products are made from left to right."""
    equation, tensors = _equation(arguments)
    inputs, output = _axes(equation, tensors)
    alone = len(tensors) == 1
    if (alone and frame.functions is None) or not all(x.is_floating_point() for x in tensors):
        result: Tensor = torch.einsum(equation, *tensors)
        return result
    x, axes, weight = tensors[0], inputs[0], is_weight(tensors[0])
    if alone:
        x, axes = _summed(frame, x, axes, output)
        return x.permute([axes.index(c) for c in output])
    for number, (y, others) in enumerate(zip(tensors[1:], inputs[1:], strict=True), start=1):
        needed = set(output).union(*inputs[number + 1 :])
        kept = "".join(dict.fromkeys(c for c in axes + others if c in needed))
        last = number == len(tensors) - 1
        weights = (weight, is_weight(y))
        x = _pair(frame, (x, axes), (y, others), output if last else kept, weights)
        axes, weight = (output if last else kept), all(weights)
    return x


def _pair(
    frame: Frame,
    left: tuple[Tensor, str],
    right: tuple[Tensor, str],
    output: str,
    weights: tuple[bool, bool],
) -> Tensor:
    """The contraction of two tensors as a batched product of matrices; an elementwise product,
    where nothing is summed and one of them has no axis of its own.
    """
    (x, a), (y, b) = (
        _summed(frame, *left, right[1] + output),
        _summed(frame, *right, left[1] + output),
    )
    batch = [c for c in a if c in b and c in output]
    rows, columns = [c for c in a if c not in b], [c for c in b if c not in a]
    terms = [c for c in a if c in b and c not in output]
    size = {**dict(zip(b, y.shape, strict=True)), **dict(zip(a, x.shape, strict=True))}
    for c in (*batch, *terms):  # lengths of 1 are broadcast
        size[c] = max(x.shape[a.index(c)], y.shape[b.index(c)])
    order = [*batch, *rows, *columns]
    if not terms and not (rows and columns):
        x = _arranged(x, a, [*batch, *rows], size)[(..., *(None for _ in columns))]
        y = _arranged(y, b, [*batch, *columns], size)[(..., *(None for _ in rows))]
        z: Tensor = frame.ops.mul(x, y)
        return z.permute([order.index(c) for c in output])
    m, n, k = [math.prod([size[c] for c in part]) for part in (rows, columns, terms)]
    lead = [size[c] for c in batch]
    x = _arranged(x, a, [*batch, *rows, *terms], size).reshape(*lead, m, k)
    y = _arranged(y, b, [*batch, *terms, *columns], size).reshape(*lead, k, n)
    z = multiply(frame, x, y, weights=weights).reshape(lead + [size[c] for c in (*rows, *columns)])
    return z.permute([order.index(c) for c in output])


def _arranged(x: Tensor, axes: str, order: Sequence[str], size: dict[str, int]) -> Tensor:
    return x.permute([axes.index(c) for c in order]).expand([size[c] for c in order])


def _summed(frame: Frame, x: Tensor, axes: str, needed: str) -> tuple[Tensor, str]:
    """The tensor with diagonals of repeated axes, and axes summed that nobody else has."""
    once = "".join(dict.fromkeys(axes))
    if once != axes:
        x = torch.einsum(f"{axes}->{once}", x)
    kept = "".join(c for c in once if c in needed)
    if kept == once:
        return x, once
    return frame.ops.sum(x, [i for i, c in enumerate(once) if c not in needed]), kept


def _equation(arguments: Sequence[Any]) -> tuple[str, list[Tensor]]:
    """The equation and its operands, also of the form (tensor, axes, tensor, axes, …, axes)."""
    if isinstance(arguments[0], str):
        rest = arguments[1:]
        operands = rest[0] if len(rest) == 1 and isinstance(rest[0], (list, tuple)) else rest
        return arguments[0], list(operands)
    parts = [arguments[i + 1] for i in range(0, len(arguments) - 1, 2)]
    equation = ",".join(_letters(part) for part in parts)
    if len(arguments) % 2:
        equation += "->" + _letters(arguments[-1])
    return equation, [arguments[i] for i in range(0, len(arguments) - 1, 2)]


def _letters(axes: Sequence[Any]) -> str:
    return "".join("..." if axis is Ellipsis else string.ascii_letters[axis] for axis in axes)


def _axes(equation: str, tensors: Sequence[Tensor]) -> tuple[list[str], str]:
    """A letter for each axis of each operand and of the output, those of an ellipsis included."""
    left, arrow, output = equation.replace(" ", "").partition("->")
    inputs = left.split(",")
    free = [c for c in string.ascii_letters if c not in equation]
    spans = [
        x.ndim - len(part.replace("...", "")) if "..." in part else 0
        for part, x in zip(inputs, tensors, strict=True)
    ]
    ellipsis = "".join(free[: max(spans, default=0)])
    inputs = [
        part.replace("...", ellipsis[len(ellipsis) - span :] if span else "")
        for part, span in zip(inputs, spans, strict=True)
    ]
    if arrow:
        return inputs, output.replace("...", ellipsis)
    letters = "".join(inputs)
    once = sorted(c for c in set(letters) if letters.count(c) == 1 and c not in ellipsis)
    return inputs, ellipsis + "".join(once)


def tensordot(
    frame: Frame,
    function: Callable[..., Any],
    a: Tensor,
    b: Tensor,
    dims: Any = 2,
    dims_other: Any = None,
) -> Tensor:
    """As `torch.tensordot`, and `torch.ops.aten.tensordot`, which has the axes of b apart."""
    if dims_other is not None:
        dims = (dims, dims_other)
    weights = (is_weight(a), is_weight(b))
    if isinstance(dims, Tensor):
        dims = dims.tolist()
    if isinstance(dims, int):
        dims = (list(range(a.ndim - dims, a.ndim)), list(range(dims)))
    first, second = ([d % x.ndim for d in axes] for x, axes in zip((a, b), dims, strict=True))
    for d, e in zip(first, second, strict=True):  # lengths of 1 are broadcast
        length = max(a.shape[d], b.shape[e])
        a, b = _lengthened(a, d, length), _lengthened(b, e, length)
    rows = [d for d in range(a.ndim) if d not in first]
    columns = [d for d in range(b.ndim) if d not in second]
    terms = math.prod([a.shape[d] for d in first])
    x = a.permute(*rows, *first).reshape(-1, terms)
    y = b.permute(*second, *columns).reshape(terms, -1)
    z = multiply(frame, x, y, weights=weights)
    return z.reshape([a.shape[d] for d in rows] + [b.shape[d] for d in columns])


def _lengthened(x: Tensor, axis: int, length: int) -> Tensor:
    if x.shape[axis] == length:
        return x
    return x.expand([length if d == axis else n for d, n in enumerate(x.shape)])


def bilinear(
    frame: Frame,
    function: Callable[..., Any],
    input1: Tensor,
    input2: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """As `F.bilinear`: the product of input1 and weight first, then of that and input2.

    input1 of shape (…, I), input2 (…, J), weight (O, I, J).
    """
    outputs, first, second = weight.shape
    if is_weight(weight):
        matrix = weight.transpose(1, 2).reshape(outputs * second, first)
        left = multiply(frame, input1, matrix.mT, weights=(False, True))
    else:
        matrix = weight.transpose(1, 2).reshape(outputs * second, first)
        left = multiply_transposed(frame, input1, matrix, None)
    left = left.reshape(*input1.shape[:-1], outputs, second)
    y = multiply(frame, left, input2[..., None], weights=(False, False))[..., 0]
    return plus(y, bias)
