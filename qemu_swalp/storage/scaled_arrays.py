"""Codes and scales that others stored, as `QuantizedTensor`."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .._util.extras import FILES, require
from ..formats import Block, parse
from ..ops.codes import BlockCodes
from ..reference.blocks import blocks_shape
from .state_dict import QuantizedTensor

ELEMENTS = {
    "float8_e4m3fn": "e4m3fn",
    "float8_e5m2": "e5m2",
    "float8_e8m0fnu": "e8m0fnu",
    "float8_e4m3fnuz": "e4m3fnuz",
    "float8_e5m2fnuz": "e5m2fnuz",
    "float6_e2m3fn": "e2m3fn",
    "float6_e3m2fn": "e3m2fn",
    "float4_e2m1fn": "e2m1fn",
}
"""A dtype of ml_dtypes that safetensors files hold → the format of its values."""

_SCALES = {
    "float32": "float<8,23>",
    "bfloat16": "bf16",
    "float16": "fp16",
    "float8_e8m0fnu": "e8m0fnu",
    "float8_e4m3fn": "e4m3fn",
    "uint8": "e8m0fnu",
}
"""The dtype of stored scales → the format of their values."""


class Blocks(NamedTuple):
    """The axis and the size of a `Block`."""

    axis: tuple[int, ...] | None = None
    size: tuple[int, ...] | None = None


def codes_of(x: np.ndarray) -> np.ndarray:
    """The bits of an array, unsigned."""
    return np.ascontiguousarray(x).view(f"u{x.dtype.itemsize}").reshape(x.shape)


def elements(x: np.ndarray) -> QuantizedTensor:
    """An array of a low-bit dtype, by the name of its format."""
    return QuantizedTensor(parse(ELEMENTS[x.dtype.name]), codes_of(x), "float32")


def scaled(
    name: str,
    codes: np.ndarray,
    element: str,
    scales: np.ndarray,
    blocks: Blocks,
    zero_points: np.ndarray | None = None,
) -> QuantizedTensor:
    """Codes under stored scales, whose dtype the values have; bfloat16 under scales of 8 bits.

    Parameters
    ----------
    name : of the array, for errors.
    codes : of the elements, unsigned.
    element : their format.
    scales : of the blocks, as stored, in any shape with as many elements.
    blocks : as the format describes them.
    zero_points : of the blocks, likewise.

    Raises ValueError if the dtype or the number of the scales is another, or if one is negative.
    """
    if scales.dtype.name not in _SCALES:
        raise ValueError(
            f"{name}: its scales are of dtype {scales.dtype.name}, expected one of"
            f" {', '.join(_SCALES)}"
        )
    if scales.dtype.name != "uint8" and (scales.astype(np.float32) < 0).any():
        raise ValueError(
            f"{name} has scales below zero, which no block format has; give their signs to the"
            " codes"
        )
    format = Block(
        element,  # type: ignore[arg-type]
        axis=blocks.axis,
        size=blocks.size,
        scale=_SCALES[scales.dtype.name],  # type: ignore[arg-type]
        rule="minmax" if zero_points is not None else None,  # type: ignore[arg-type]
    )
    if len(blocks.axis or ()) > codes.ndim:
        raise ValueError(f"damaged: {name} of shape {codes.shape} lacks axes of {format}")
    shape = blocks_shape(codes.shape, format)
    parts = {"scales": codes_of(scales)}
    if zero_points is not None:
        parts["zero_points"] = zero_points
    for part, x in parts.items():
        if x.size != math.prod(shape):
            raise ValueError(
                f"damaged: {name} of shape {codes.shape} in {format} has {part} of shape"
                f" {shape}, got {x.shape}"
            )
    shared = {part: x.reshape(shape) for part, x in parts.items()}
    own = scales.dtype.name
    dtype = own if own in ("float32", "float16") else "bfloat16"
    return QuantizedTensor(format, BlockCodes(codes, **shared), dtype)


def in_bfloat16(x: np.ndarray) -> np.ndarray:
    """The nearest bfloat16 numbers."""
    return x.astype(require("ml_dtypes", FILES).bfloat16)


def unpacked(x: np.ndarray, bits: int) -> np.ndarray:
    """Codes of so many bits from words of 32 or 8, along the last axis, the lowest bits first."""
    words = np.ascontiguousarray(x)
    stream = np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little")
    count = stream.shape[-1] // bits
    groups = stream[..., : count * bits].reshape(*x.shape[:-1], count, bits)
    padded = np.zeros((*groups.shape[:-1], 8), np.uint8)
    padded[..., :bits] = groups
    codes: np.ndarray = np.packbits(padded, axis=-1, bitorder="little")[..., 0]
    return codes
