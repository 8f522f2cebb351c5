"""Products that are made of others, by calls of `keras.ops` that are rounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from ..backend import operand_of
from .attention import attend


def outer(x1: Any, x2: Any) -> Any:
    """`keras.ops.outer`."""
    return ops.einsum("i,j->ij", ops.ravel(x1), ops.ravel(x2))


def kron(x1: Any, x2: Any) -> Any:
    """`keras.ops.kron`."""
    x1, x2 = operand_of(x1), operand_of(x2)
    rank = max(len(x1.shape), len(x2.shape))
    a, b = (ops.reshape(x, (1,) * (rank - len(x.shape)) + tuple(x.shape)) for x in (x1, x2))
    letters = "abcdefghijklmnopqrstuvwxyz"
    of_a, of_b = letters[:rank], letters[rank : 2 * rank]
    pairs = "".join(x + y for x, y in zip(of_a, of_b, strict=True))
    y = ops.einsum(f"{of_a},{of_b}->{pairs}", a, b)
    return ops.reshape(y, [m * n for m, n in zip(a.shape, b.shape, strict=True)])


def separable_conv(
    inputs: Any,
    depthwise_kernel: Any,
    pointwise_kernel: Any,
    strides: Any = 1,
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: Any = 1,
) -> Any:
    """`keras.ops.separable_conv`."""
    options = {"data_format": data_format}
    between = ops.depthwise_conv(
        inputs, depthwise_kernel, strides, padding, dilation_rate=dilation_rate, **options
    )
    return ops.conv(between, pointwise_kernel, 1, "valid", **options)


COMPOSED: dict[str, Callable[..., Any]] = {
    "numpy.outer": outer,
    "numpy.kron": kron,
    "nn.separable_conv": separable_conv,
    "nn.dot_product_attention": attend,
}
"""By the name of a function of the backend."""
