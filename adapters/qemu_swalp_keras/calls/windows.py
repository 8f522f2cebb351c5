"""Windows of a tensor, as pooling and convolutions meet them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops


def margins(length: int, kernel: int, stride: int, dilation: int, padding: str) -> tuple[int, int]:
    """How many zeros go before and after an axis for `padding` "valid", "same" or "causal".

    Raises
    ------
    ValueError: if the length is not known while tracing and the padding depends on it.
    """
    reach = dilation * (kernel - 1)
    if padding == "valid":
        return 0, 0
    if padding == "causal":
        return reach, 0
    total = max((-(-known(length) // stride) - 1) * stride + reach + 1 - length, 0)
    return total // 2, total - total // 2


def known(length: int | None) -> int:
    """The length of an axis of images.

    Raises
    ------
    ValueError: if a trace leaves it open.
    """
    if length is None:
        raise ValueError(
            "windows are rounded where the lengths of images are known while tracing; give the"
            " model's Input a shape without None, or exclude the layer"
        )
    return length


def windows(x: Any, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Any:
    """x of shape (B, C, *S) as (B, C, *P, *k): at each place P what a kernel meets there."""
    for i, (k, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
        axis, length = 2 + i, known(x.shape[2 + i])
        count = (length - dilation * (k - 1) - 1) // stride + 1
        places = np.arange(count)[:, None] * stride + np.arange(k)[None] * dilation
        x = ops.take(x, places.reshape(-1).astype("int32"), axis)
        x = ops.reshape(x, (*ops.shape(x)[:axis], count, k, *ops.shape(x)[axis + 1 :]))
        x = ops.moveaxis(x, axis + 1, -1)
    return x
