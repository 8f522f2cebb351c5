"""Floats of few bits as compressed-tensors, DeepSeek, ModelOpt and gpt-oss store them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .._util.extras import FILES, require
from ..ops.decode import decode
from .quantization_config import weights_said
from .scaled_arrays import ELEMENTS, Blocks, codes_of, scaled, unpacked
from .state_dict import QuantizedTensor

Parts = Mapping[str, np.ndarray]
TILE = (128, 128)
"""DeepSeek's tiles (DeepSeek-V3, section 3.3.2), where config.json does not say others."""


def gpt_oss(name: str, parts: Parts, config: Mapping[str, Any]) -> QuantizedTensor:
    """MXFP4: `_blocks` of 16 bytes for 32 elements, the even ones in the low halves, and `_scales`
    with an E8M0 code for each. Its last axis is the sum's, as in the file; the parameter of
    transformers is the transposed.
    """
    packed, scales = parts["_blocks"], parts["_scales"]
    if packed.ndim < 2 or packed.shape[-1] != 16 or packed.shape[:-1] != scales.shape:
        raise ValueError(
            f"damaged: {name}_blocks must have 16 bytes for each of the scales of shape"
            f" {scales.shape}, got shape {packed.shape}"
        )
    codes = unpacked(packed, 4).reshape(*packed.shape[:-2], -1)
    return scaled(name, codes, "e2m1fn", scales, Blocks((-1,), (32,)))


def fp4_or_fp6(name: str, parts: Parts, config: Mapping[str, Any]) -> QuantizedTensor | np.ndarray:
    """compressed-tensors' `mxfp4-pack-quantized` and `mxfp6-pack-quantized`; with a global scale,
    which the scales are divided by, `nvfp4-pack-quantized`.
    """
    packed, scales = parts["_packed"], parts["_scale"]
    if "_global_scale" in parts:
        global_scale = _single(f"{name}_global_scale", parts["_global_scale"])
        return _nvfp4(name, packed, scales, lambda s: s / global_scale)
    blocks = scales.shape[-1] if scales.ndim else 0
    stored = 8 * packed.shape[-1] if packed.ndim else -1
    bits = next((b for b in (4, 6) if stored == blocks * 32 * b), None)
    if bits is None or scales.dtype.name not in ("uint8", "float8_e8m0fnu"):
        raise ValueError(
            f"damaged: {name}_packed must have 16 bytes (FP4) or 24 bytes (FP6) for each scale in"
            f" uint8, got shape {packed.shape}, and scales in {scales.dtype} of shape"
            f" {scales.shape}"
        )
    element = "e2m1fn" if bits == 4 else "e2m3fn"
    codes = unpacked(packed, bits)
    return scaled(name, codes, element, scales, Blocks((-1,), (32,)))


def nvfp4_in_two_scales(name: str, parts: Parts, config: Mapping[str, Any]) -> np.ndarray:
    """ModelOpt's NVFP4: the scales are multiplied by `_scale_2`."""
    second = _single(f"{name}_scale_2", parts["_scale_2"])
    return _nvfp4(name, parts[""], parts["_scale"], lambda s: s * second)


def _nvfp4(name: str, packed: np.ndarray, scales: np.ndarray, whole: Any) -> np.ndarray:
    """The values in bfloat16, after float32 products of codes and of the scales as a whole: this
    rounds twice, as no block format does.
    """
    if (
        scales.dtype.name != "float8_e4m3fn"
        or scales.ndim != packed.ndim
        or (*packed.shape[:-1], packed.shape[-1]) != (*scales.shape[:-1], 8 * scales.shape[-1])
    ):
        raise ValueError(
            f"damaged: {name} must have 8 bytes of codes for each scale in float8_e4m3fn, got codes"
            f" of shape {packed.shape}, and scales in {scales.dtype} of shape {scales.shape}"
        )
    codes: np.ndarray = decode(unpacked(packed, 4), "e2m1fn")
    with np.errstate(all="ignore"):  # scales of NaN, and a damaged global one, give NaN
        by_block = np.repeat(whole(scales.astype(np.float32)), 16, axis=-1)
        values: np.ndarray = (codes * by_block).astype(require("ml_dtypes", FILES).bfloat16)
    return values


def _single(name: str, x: np.ndarray) -> np.float32:
    if x.size != 1:
        raise ValueError(f"damaged: {name} must be one number, got shape {x.shape}")
    return np.float32(x.reshape(-1)[0])


def tiles(name: str, parts: Parts, config: Mapping[str, Any]) -> QuantizedTensor:
    """DeepSeek's FP8: a scale for each tile of 128×128, or of `weight_block_size`."""
    codes, scales = parts[""], parts["_scale_inv"]
    blocks = Blocks((-2, -1), tuple(config.get("weight_block_size") or TILE))
    return scaled(name, codes_of(codes), ELEMENTS[codes.dtype.name], scales, blocks)


def under_scales(name: str, parts: Parts, config: Mapping[str, Any]) -> QuantizedTensor:
    """compressed-tensors' `float-quantized`, `int-quantized`, `naive-quantized` and
    `mxfp8-quantized`: a scale for the array, each channel, each group of a row, or each tile.
    """
    x, scales = parts[""], parts["_scale"]
    codes = codes_of(x)
    zero_points = parts.get("_zero_point")
    blocks = _blocks(name, x, scales, config)
    if x.dtype != np.int8:
        if zero_points is not None and np.any(zero_points):
            raise ValueError(
                f"{name} has zero points, and its codes are floats; such arrays are not read"
            )
        return scaled(name, codes, ELEMENTS[x.dtype.name], scales, blocks)
    if zero_points is None:
        return scaled(name, codes, "fixed<8,0>", scales, blocks)
    if zero_points.dtype != np.int8:
        raise ValueError(f"damaged: {name}_zero_point must be int8, got {zero_points.dtype}")
    flipped = codes_of(zero_points) ^ 0x80  # from -128..127 to 0..255, as the codes
    return scaled(name, codes ^ 0x80, "fixed<8,0,unsigned>", scales, blocks, flipped)


def _blocks(name: str, x: np.ndarray, scales: np.ndarray, config: Mapping[str, Any]) -> Blocks:
    """The blocks that so many scales are of."""
    if scales.size == 1:
        return Blocks()
    rows, columns = x.shape[:-1], x.shape[-1] if x.ndim else 1
    if scales.shape in (rows, (*rows, 1)):
        return Blocks(tuple(range(len(rows))))
    if x.ndim == 1 and scales.shape == x.shape:
        return Blocks((0,))
    said = weights_said(config)
    alike = said and all(other == said[0] for other in said)
    structure = said[0].get("block_structure") if alike else None
    grouped = scales.ndim == x.ndim and scales.shape[:-1] == rows
    if grouped and scales.shape[-1] and columns % scales.shape[-1] == 0 and structure is None:
        return Blocks((-1,), (columns // scales.shape[-1],))
    return Blocks((-2, -1), tuple(structure or TILE))
