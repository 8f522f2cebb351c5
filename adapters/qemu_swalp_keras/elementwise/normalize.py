"""Standardization of rows and affine maps, each elementwise operation rounded, with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from qemu_swalp.training import functional

from ..backend import dtype_of
from ..calls.differentiable import attached, once
from ..calls.rules import ElementwiseRules
from .arithmetic import RoundedArithmetic


def standardize(
    x: Any, eps: float, centered: bool, rules: ElementwiseRules, state: Any
) -> tuple[Any, Any, Any]:
    """(x - μ)/√(σ² + ε) of rows, with μ and σ², which carry no gradient; of centered=False μ is
    None.
    """
    forward = RoundedArithmetic(rules, state, "forward")
    fixed = ops.stop_gradient(x)
    mean, d, variance = functional.moments(forward, fixed, count_of(fixed), centered)
    r = functional.reciprocal_root(forward, variance, eps)
    z = attached(
        forward.multiply(d, r), _standardize_backward, (centered, rules), tuple(state), x, r
    )
    return z, mean, variance


def standardize_by(
    x: Any, mean: Any, variance: Any, eps: float, rules: ElementwiseRules, state: Any
) -> Any:
    """(x - mean)/√(variance + ε) of rows by statistics that carry no gradient."""
    forward = RoundedArithmetic(rules, state, "forward")
    d = forward.subtract(ops.stop_gradient(x), ops.cast(mean, dtype_of(x)))
    r = functional.reciprocal_root(forward, ops.cast(variance, dtype_of(x)), eps)
    return attached(forward.multiply(d, r), _by_backward, rules, tuple(state), x, r)


def affine(z: Any, weight: Any, bias: Any, rules: ElementwiseRules, state: Any) -> Any:
    """z·weight + bias; z of shape (A, P, B), weight and bias with P elements or None."""
    rules = rules.within("affine")
    forward = RoundedArithmetic(rules, state, "forward")
    given = [None if p is None else ops.cast(p, dtype_of(z)) for p in (weight, bias)]
    w, b = (None if p is None else ops.reshape(ops.stop_gradient(p), (-1, 1)) for p in given)
    y = ops.stop_gradient(z)
    y = y if w is None else forward.multiply(y, w)
    y = y if b is None else forward.add(y, b)
    static = (weight is not None, bias is not None, rules)
    tensors = [z, *(p for p in given if p is not None)]
    return attached(y, _affine_backward, static, tuple(state), *tensors)


def count_of(x: Any) -> Any:
    """Length of the rows: a number, or a tensor of x's dtype where a trace leaves it open."""
    length = ops.shape(x)[-1]
    return length if isinstance(length, int) else ops.cast(length, dtype_of(x))


@once
def _standardize_backward(
    static: Any, state: Any, tensors: Sequence[Any], g: Any, needed: Any
) -> tuple[Any, ...]:
    (centered, rules), (z, _, r) = static, tensors
    backward = RoundedArithmetic(rules, state, "backward")
    return (
        None,
        functional.standardized_gradient(backward, z, r, g, count_of(z), centered),
        None,
    )


@once
def _by_backward(
    static: Any, state: Any, tensors: Sequence[Any], g: Any, needed: Any
) -> tuple[Any, ...]:
    return None, RoundedArithmetic(static, state, "backward").multiply(g, tensors[2]), None


@once
def _affine_backward(
    static: Any, state: Any, tensors: Sequence[Any], g: Any, needed: Any
) -> list[Any]:
    weighted, biased, rules = static
    _, z, *parameters = tensors
    backward, dz, found = RoundedArithmetic(rules, state, "backward"), g, []
    if weighted:
        dz = backward.multiply(g, ops.reshape(parameters[0], (-1, 1)))
        dw = backward.sum(_by_parameter(backward.multiply(g, z)))
        found.append(ops.reshape(dw, parameters[0].shape))
    if biased:
        db = backward.sum(_by_parameter(g))
        found.append(ops.reshape(db, parameters[-1].shape))
    return [None, dz, *found]


def _by_parameter(x: Any) -> Any:
    """(A, P, B) as (P, A·B)."""
    return ops.reshape(ops.moveaxis(x, 1, 0), (x.shape[1], -1))
