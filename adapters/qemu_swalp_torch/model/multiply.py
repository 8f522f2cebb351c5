"""A product of two operands by the rules of the module that is called.

Of two operands that which is a parameter, or was computed from parameters alone, is the weight; of
two such the second; else both are inputs. A product of two inputs whose sum has one term is an
outer product: elementwise, and left as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ops.matmul import linear, matmul
from .frames import Frame, Products, is_weight


def multiply(
    frame: Frame,
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    *,
    part: str | None = None,
    weights: tuple[bool, bool] | None = None,
) -> Tensor:
    """a·b + bias; a of shape (…, M, K), b (…, K, N).

    `part` names the product among those of the module's call, by default with its number; `weights`
    says which operands are weights, by default by what they are.
    """
    products, of_one = frame.products, a.shape[-1] == 1
    is_rounded = products is not None or (of_one and frame.functions is not None)
    if not (is_rounded and a.is_floating_point() and b.is_floating_point()):
        return plus(torch.matmul(a, b), bias)
    of_a, of_b = weights or (is_weight(a), is_weight(b))
    if of_one and not of_a and not of_b:
        return plus(frame.ops.mul(a, b), bias)
    if products is None:
        return plus(torch.matmul(a, b), bias)
    part = products.next_part() if part is None else part
    if of_b:
        y = _by_weight(products, a, b, bias, part)
    elif of_a:
        y = plus(_by_weight(products, b.mT, a.mT, None, part).mT, bias)
    else:
        y = plus(matmul(a, b, products.of_activations(part)), bias)
    products.note(2 * y.numel() * a.shape[-1], rounded=products.site.attention or of_a or of_b)
    return y


def multiply_transposed(
    frame: Frame, x: Tensor, weight: Tensor, bias: Tensor | None, part: str | None = None
) -> Tensor:
    """x·weightᵀ + bias, as `F.linear`; weight of shape (N, K)."""
    products = frame.products
    if products is None or not x.is_floating_point():
        return F.linear(x, weight, bias)
    if not is_weight(weight):
        return multiply(frame, x, weight.mT, bias, part=part, weights=(is_weight(x), False))
    y = linear(x, weight, bias, products.of(products.next_part() if part is None else part))
    products.note(2 * y.numel() * weight.shape[-1])
    return y


def plus(y: Tensor, bias: Tensor | None) -> Tensor:
    """y + bias, where there is one."""
    return y if bias is None else y + bias


def _by_weight(
    products: Products, x: Tensor, weight: Tensor, bias: Tensor | None, part: str
) -> Tensor:
    """x·weight + bias; weight of shape (K, N), or one of these for each matrix of x."""
    rules = products.of(part)
    if weight.ndim == 2:
        return linear(x, weight.mT, bias, rules)
    return plus(matmul(x, weight, rules), bias)
