"""Rounding of many arrays in one call of the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .. import kernels
from ..arrays.dtypes import SOURCE_DTYPES
from ..random_bits import RandomBits
from .arguments import check_representable
from .quantizer import Quantizer

if TYPE_CHECKING:
    from ..kernels.chunks import Chunks, Limits


def round_many(
    arrays: Sequence[Any], quantizers: Sequence[Quantizer], random: Sequence[RandomBits | None]
) -> list[bool]:
    """Round arrays in place, all that the kernels support in one call for each dtype and device.

    Parameters
    ----------
    arrays : of any libraries, shapes and dtypes.
    quantizers : of each array.
    random : of each array, None unless its quantizer is stochastic.

    Returns
    -------
    list of bool : False for each array that is left as it was: a kernel works on C-contiguous
        float32 or float64 with small blocks, on a GPU also 16 bits and other orders of axes, and
        reads no step from an array.

    Raises
    ------
    TypeError: if the dtype of an array cannot hold the values of its format; then no array is
        changed.

    >>> import numpy as np
    >>> x = np.float32([0.1, 1.3])
    >>> done = round_many([x], [Quantizer("e4m3fn/nearest_even")], [None])
    >>> x.tolist() if done[0] else [0.1015625, 1.25]
    [0.1015625, 1.25]
    """
    if not kernels.enabled():
        return [False] * len(arrays)
    prepared = [_prepared(*each) for each in zip(arrays, quantizers, random, strict=True)]
    supported = [tensor for tensor in prepared if tensor is not None]
    if supported:
        from ..kernels import multi_tensor

        multi_tensor.round_many(supported)
    return [tensor is not None for tensor in prepared]


def _prepared(array: Any, quantizer: Quantizer, random: RandomBits | None) -> Any:
    """The `kernels.multi_tensor.TensorRounding`; None if the kernels do not support it."""
    backend = kernels.backend_of(array)
    key = None if backend is None else backend.tensor_key(array)
    if backend is None or key is None or not backend.writable(array) or not quantizer.plain:
        return None
    limits = key.processor.limits
    chunks = chunks_for(tuple(array.shape), key.dtype, (quantizer,), limits, key.order)
    if chunks is None:
        return None
    from ..kernels.multi_tensor import TensorRounding

    address = backend.address(array)
    if not chunks.stochastic:
        return TensorRounding(key.processor, chunks, address, address, 0, (0, 0))
    if random is None or random.offset or not isinstance(random.step, int):
        return None
    return TensorRounding(key.processor, chunks, address, address, random.step, random.key)


Quantizers = tuple[Quantizer | None, ...]
_known: dict[tuple[Any, ...], tuple[Quantizers, Any]] = {}
"""By the quantizers' identity, since hashing them takes longer than all else. Stored, they keep
their ids.
"""


def chunks_for(
    shape: tuple[int, ...],
    dtype: str,
    quantizers: Quantizers,
    limits: Limits,
    order: tuple[int, ...] | None = None,
    stored: str | None = None,
) -> Chunks | None:
    """The chunks in which the kernels round tensors by these quantizers; None if they do not.
    order, stored : as in `kernels.chunks.chunks_of`.

    Raises
    ------
    TypeError: if the dtype cannot hold the values of a format.
    """
    key = (shape, dtype, limits, order, stored, *map(id, quantizers))
    if key not in _known:
        if len(_known) >= 65536:
            _known.clear()
        _known[key] = quantizers, _chunks_of(shape, dtype, quantizers, limits, order, stored)
    chunks: Chunks | None = _known[key][1]
    return chunks


def _chunks_of(
    shape: tuple[int, ...],
    dtype: str,
    quantizers: Quantizers,
    limits: Limits,
    order: tuple[int, ...] | None,
    stored: str | None,
) -> Chunks | None:
    from ..kernels.chunks import chunks_of

    for quantizer in quantizers:
        if quantizer is not None:
            check_representable(quantizer.format, SOURCE_DTYPES[stored or dtype])
            if quantizer.rounding.stochastic:
                RandomBits().check_reach(shape)
    targets = tuple(None if q is None else q.target for q in quantizers)
    return chunks_of(shape, dtype, targets, limits, order, stored)
