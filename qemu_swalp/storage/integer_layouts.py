"""Integers of few bits in words of 32 bits: compressed-tensors, GPTQ and AWQ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .quantization_config import weights_said
from .scaled_arrays import Blocks, scaled, unpacked
from .state_dict import QuantizedTensor

Parts = Mapping[str, np.ndarray]
AWQ_ORDER = {4: (0, 4, 1, 5, 2, 6, 3, 7)}
"""Bits → the place in its word of each of the columns of AWQ that share one."""


def packed_integers(
    name: str, parts: Parts, config: Mapping[str, Any]
) -> QuantizedTensor | np.ndarray:
    """compressed-tensors' `pack-quantized`: codes above -2^(bits - 1), along the rows."""
    packed, scales = parts["_packed"], parts["_scale"]
    shape = tuple(parts["_shape"].reshape(-1).tolist())
    if not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f"damaged: {name}_shape must hold lengths, got {list(shape)}")
    if packed.ndim < 1 or len(shape) != packed.ndim or shape[:-1] != packed.shape[:-1]:
        raise ValueError(
            f"damaged: {name}_packed of shape {packed.shape} cannot hold an array of shape {shape}"
        )
    bits = _bits(name, shape[-1], packed.shape[-1], config)
    codes = unpacked(packed, bits)[..., : shape[-1]]
    zero_points = parts.get("_zero_point")
    scales = scales if scales.ndim == len(shape) else scales.reshape(*scales.shape, 1)
    groups = scales.shape[-1]
    if zero_points is not None:
        if zero_points.ndim != len(shape) or len(shape) < 2 or zero_points.dtype != np.int32:
            raise ValueError(
                f"damaged: {name}_zero_point must be words of int32 with {len(shape)} axes, got"
                f" {zero_points.dtype} of shape {zero_points.shape}"
            )
        zero_points = np.moveaxis(unpacked(np.moveaxis(zero_points, -2, -1), bits), -1, -2)
        zero_points = zero_points[..., : shape[-2], :]
    if "_g_idx" in parts:
        index = parts["_g_idx"].reshape(-1)
        _check_index(name, index, shape[-1], groups)
        others = scales.shape if zero_points is None else zero_points.shape
        if scales.shape[:-1] != shape[:-1] or others != scales.shape:
            raise ValueError(
                f"damaged: {name} of shape {shape} has scales of shape {scales.shape} and zero"
                f" points of shape {others}"
            )
        zeros = 1 << (bits - 1) if zero_points is None else zero_points[..., index]
        return _values(codes, zeros, scales[..., index])
    if scales.size == 1:
        blocks = Blocks()
    elif groups == 1:
        blocks = Blocks(tuple(range(len(shape) - 1)))
    elif groups and shape[-1] % groups == 0:
        blocks = Blocks((-1,), (shape[-1] // groups,))
    else:
        raise ValueError(
            f"damaged: {name} of shape {shape} cannot have {groups} groups in a row, as its scales"
            f" of shape {scales.shape} say"
        )
    if zero_points is None:
        signed = codes ^ (1 << (bits - 1))  # two's complement
        return scaled(name, signed, f"fixed<{bits},0>", scales, blocks)
    return scaled(name, codes, f"fixed<{bits},0,unsigned>", scales, blocks, zero_points)


def _bits(name: str, columns: int, words: int, config: Mapping[str, Any]) -> int:
    """The only number of bits that fills so many words with so many codes."""
    fitting = [bits for bits in range(2, 9) if -(-columns * bits // 32) == words]
    said = {weights.get("num_bits") for weights in weights_said(config)}
    fitting = [bits for bits in fitting if bits in said] if said & set(fitting) else fitting
    if len(fitting) != 1:
        raise ValueError(
            f"{name}: {words} words of 32 bits hold {columns} codes of"
            f" {' or '.join(map(str, fitting)) or 'no number of'} bits; config.json beside the file"
            " must say which, by num_bits"
        )
    return fitting[0]


def awq_or_gptq(name: str, parts: Parts, config: Mapping[str, Any]) -> QuantizedTensor | np.ndarray:
    """Integers with zero points, stored transposed: GPTQ's words go along the sum, AWQ's along the
    outputs.

    Of GPTQ, zero points are stored less 1, but where `checkpoint_format` in config.json is
    "gptq_v2".
    """
    words, scales, zeros = parts[".qweight"], parts[".scales"], parts.get(".qzeros")
    shapes = [x.shape for x in (words, scales, zeros) if x is not None]
    if any(len(shape) != 2 for shape in shapes):
        raise ValueError(
            f"damaged: {name} must be stored in matrices, got shapes {', '.join(map(str, shapes))}"
        )
    groups, outputs = scales.shape
    along_sum = words.shape[1] == outputs
    bits = _bits_of_words(name, words, outputs, zeros, config, along_sum)
    if along_sum:
        codes = unpacked(words.T, bits)
    else:
        codes = _awq_columns(words, bits).T
    if codes.shape[0] != outputs or not groups or codes.shape[1] % groups:
        raise ValueError(
            f"damaged: {name} with codes of shape {codes.shape} cannot have scales of shape"
            f" {scales.T.shape}"
        )
    if zeros is None:
        zero_points = np.full((groups, outputs), 1 << (bits - 1), np.int32)
    else:
        read = unpacked(zeros, bits) if along_sum else _awq_columns(zeros, bits)
        zero_points = read.astype(np.int32)
        if zero_points.shape != scales.shape:
            raise ValueError(
                f"damaged: {name} has scales of shape {scales.shape} and zero points of shape"
                f" {zero_points.shape}"
            )
        if along_sum and config.get("checkpoint_format") != "gptq_v2":
            zero_points += 1
    size = codes.shape[1] // groups
    regular = np.arange(codes.shape[1]) // size
    index = parts.get(".g_idx", regular)
    _check_index(name, index, codes.shape[1], groups)
    if (index != regular).any() or zero_points.max(initial=0) >= 1 << bits:
        return _values(codes, zero_points.T[:, index], scales.T[:, index])
    stored = np.ascontiguousarray(zero_points.T).astype(np.uint8)
    element, blocks = f"fixed<{bits},0,unsigned>", Blocks((-1,), (size,))
    return scaled(name, codes, element, np.ascontiguousarray(scales.T), blocks, stored)


def _bits_of_words(
    name: str,
    words: np.ndarray,
    outputs: int,
    zeros: np.ndarray | None,
    config: Mapping[str, Any],
    along_sum: bool,
) -> int:
    """Bits of a code, by what stands along the outputs; else as config.json says."""
    along_outputs = words if not along_sum else zeros
    if along_outputs is None:
        bits = config.get("bits") or config.get("w_bit") or 4
    else:
        bits = 32 * along_outputs.shape[-1] / outputs if outputs else 0
    if bits not in ((2, 4, 8) if along_sum else AWQ_ORDER):
        raise ValueError(
            f"{name}: codes of {bits:g} bits in words of 32 are not read; of GPTQ 2, 4 and 8 are,"
            " of AWQ 4"
        )
    return int(bits)


def _awq_columns(words: np.ndarray, bits: int) -> np.ndarray:
    order = AWQ_ORDER[bits]
    codes = unpacked(words, bits)
    groups = codes.reshape(words.shape[0], words.shape[1], len(order))
    return groups[..., order].reshape(codes.shape)


def _check_index(name: str, index: np.ndarray, length: int, groups: int) -> None:
    whole = np.issubdtype(index.dtype, np.integer)
    if not whole or index.shape != (length,) or (index < 0).any() or (index >= groups).any():
        raise ValueError(
            f"damaged: {name} must have a group, an integer from 0 to {groups - 1}, for each of"
            f" {length} columns, got {index.dtype} of shape {index.shape}"
        )


def _values(codes: np.ndarray, zeros: np.ndarray | int, scales: np.ndarray) -> np.ndarray:
    """(codes - zeros)·scales, all for each element, in the dtype of the scales: the groups of such
    an array are no runs, so that it is in no block format.
    """
    values: np.ndarray = (codes.astype(np.int32) - zeros).astype(scales.dtype) * scales
    return values
