"""State dicts in the layout of compressed-tensors, which transformers and vLLM load."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from .._util.extras import FILES, require
from ..formats import Block, Float, Format, parse
from ..ops.codes import BlockCodes
from ..ops.pack import pack
from .host_arrays import in_own_dtype
from .ml_dtypes import to_ml_dtypes
from .quantization_config import json_object
from .sources import INDICES
from .state_dict import QuantizedTensor
from .tensor_files import whole, write_tensors

E2M1, E2M3, E4M3, E8M0 = (
    cast(Float, parse(name)) for name in ("e2m1fn", "e2m3fn", "e4m3fn", "e8m0fnu")
)
FLOATS = {parse("float<8,23>"): "float32", parse("bf16"): "bfloat16", parse("fp16"): "float16"}
"""Formats of scales → their dtypes in the file."""

INTEGERS = {
    parse(f"fixed<{bits},0{kind}>"): (bits, kind != ",unsigned")
    for bits in range(2, 9)
    for kind in ("", ",symmetric", ",unsigned")
}
"""Integer elements → their bits, and whether they have no zero point."""

ACCEPTED = (
    "int<8,axis=0>, int<4,zero_point,axis=-1,size=128> and the like under float<8,23>, bf16 or"
    " fp16 scales; e4m3fn under the same, as in block<e4m3fn,axis=0,scale=bf16> or fp8_128x128;"
    " mxfp8_e4m3, mxfp6_e2m3, mxfp4; nvfp4"
)


def save_compressed_tensors(
    folder: str | os.PathLike[str],
    state: Mapping[str, Any],
    *,
    metadata: Mapping[str, str] | None = None,
    activations: bool = False,
) -> None:
    """Write a state dict in the layout of compressed-tensors: `model.safetensors`, and what it says
    of quantization in `config.json`, of which other entries are kept.

    Parameters
    ----------
    folder : which is made if it is not there.
    state : names → `QuantizedTensor` of shape (out, in), whose names end in `.weight`, in e4m3fn
        under one scale for the array, each row, group or tile. Or in integers of 2 to 8 bits under
        one for the array, or for each row or group, there with zero points or without. Or in
        mxfp8_e4m3, mxfp6_e2m3, mxfp4 or nvfp4. Other arrays are stored as they are.
    metadata : strings by name: `__metadata__` of the file.
    activations : say that the inputs of these layers are rounded as their weights are, to 8 bits
        under a scale for each token that is found as they come (W8A8). All weights are then e4m3fn
        (`float-quantized`) or integers of 8 bits (`int-quantized`).

    The layout divides by NVFP4's global scale, so that the inverse of ours is stored, rounded to
    float32; values that are read may differ from ours in their last bit. All others are the same.

    Raises
    ------
    ValueError: if an array is of another name, shape or format, if its rows are not filled by
        groups, or if `activations` goes with other weights than these. Also if `config.json` is
        there and no JSON object, or the folder has the index of another checkpoint.
    OSError: if a file cannot be written.
    ImportError: without safetensors or ml_dtypes.

    >>> import tempfile, numpy as np
    >>> from qemu_swalp import load_checkpoint, quantize_state_dict
    >>> state = quantize_state_dict({"fc.weight": np.eye(2, 32, dtype=np.float32)}, "mxfp4")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_compressed_tensors(folder, state)
    ...     back = load_checkpoint(folder)["fc.weight"]
    >>> str(back.format), back.decode()[:, :3].astype(int).tolist()
    ('mxfp4', [[1, 0, 0], [0, 1, 0]])
    """
    stored: dict[str, np.ndarray] = {}
    groups: dict[str, dict[str, Any]] = {}
    for name, x in state.items():
        if not isinstance(x, QuantizedTensor):
            stored[name] = in_own_dtype(name, x)
            continue
        layout, weights, parts = _parts(name, x)
        inputs = {}
        if activations:
            layout, parts = _with_activations(name, x, layout, parts)
            kinds = {key: weights[key] for key in ("num_bits", "type")}
            dynamic = {"strategy": "token", "symmetric": True, "dynamic": True}
            inputs = {"input_activations": kinds | dynamic}
        stored |= {f"{name}{ending}": part for ending, part in parts.items()}
        key = json.dumps([layout, weights])
        said_of_all = {"weights": weights, **inputs, "format": layout}
        group = groups.setdefault(key, {"targets": [], **said_of_all})
        group["targets"].append(name.removesuffix(".weight"))
    layouts = {group["format"] for group in groups.values()}
    said: dict[str, Any] = {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": layouts.pop() if len(layouts) == 1 else "mixed-precision",
        "config_groups": {f"group_{i}": group for i, group in enumerate(groups.values())},
        "ignore": [],
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    index = next((folder / name for name in INDICES if (folder / name).exists()), None)
    if index is not None:
        raise ValueError(
            f"{index} is the index of another checkpoint, which readers of {folder} would go by;"
            " write to another folder"
        )
    config = folder / "config.json"
    others = json_object(config) if config.exists() else {}
    write_tensors(folder / "model.safetensors", stored, metadata)
    text = json.dumps(others | {"quantization_config": said}, indent=2)
    with whole(config) as part:
        Path(part).write_text(text + "\n", encoding="utf-8")


def _parts(name: str, x: QuantizedTensor) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """The layout's name, what it says of the weight, and the arrays by the endings of names."""
    format, codes = x.format, x.codes
    if not (isinstance(format, Block) and isinstance(codes, BlockCodes)):
        raise _refused(name, x)
    if len(x.shape) != 2 or not name.endswith(".weight"):
        raise _refused(name, x)
    own, scales = np.asarray(codes.codes), np.asarray(codes.scales)
    extents, element = format.extents(2), format.element.replace(overflow="saturate")
    said = _strategy(extents) | {"type": "float", "num_bits": element.bits, "symmetric": True}
    group = said.get("group_size")
    if group and x.shape[1] % group:
        raise ValueError(
            f"{name} has rows of {x.shape[1]} elements, which groups of {group} do not fill, as"
            " compressed-tensors needs; leave it as it is by the format None"
        )
    if format.rule != "minmax" and format.second is None and element == E4M3:
        e4m3 = {"": to_ml_dtypes(own, E4M3)}
        if format.scale in FLOATS:
            floats = _under_its_dtype(scales, format.scale)
            shape = (1,) if extents == (None, None) else floats.shape
            return "naive-quantized", said, e4m3 | {"_scale": floats.reshape(shape)}
        if (format.scale, extents) == (E8M0, (1, 32)):
            said |= {"scale_dtype": "torch.uint8"}
            return "mxfp8-quantized", said, e4m3 | {"_scale": scales}
    strategies = ("channel", "group", "tensor")[: 3 if codes.zero_points is None else 2]
    integers = format.element in INTEGERS and not format.in_integers
    if integers and format.scale in FLOATS and said["strategy"] in strategies:
        return _integers(said, x.shape, format, codes)
    if element not in (E2M1, E2M3):
        raise _refused(name, x)
    packed = {"_packed": np.reshape(pack(own, element.bits), (x.shape[0], -1))}
    if (format.scale, extents, format.second) == (E8M0, (1, 32), None):
        said |= {"scale_dtype": "torch.uint8"}
        bits = element.bits
        return f"mxfp{bits}-pack-quantized", said, packed | {"_scale": scales}
    if (format.scale, extents) == (E4M3, (1, 16)) and element == E2M1 and codes.second is not None:
        said |= {"strategy": "tensor_group"}
        parts = packed | {
            "_scale": to_ml_dtypes(scales, E4M3),
            "_global_scale": _divisor(format, codes.second),
        }
        return "nvfp4-pack-quantized", said, parts
    raise _refused(name, x)


def _with_activations(
    name: str, x: QuantizedTensor, layout: str, parts: dict[str, np.ndarray]
) -> tuple[str, dict[str, np.ndarray]]:
    """The layout of weights whose products have inputs of 8 bits, and its arrays: integers in a
    byte each, from -128.
    """
    if layout == "naive-quantized":
        return "float-quantized", parts
    format, codes = x.format, x.codes
    if (
        layout != "pack-quantized"
        or format.bits != 8
        or not (isinstance(format, Block) and isinstance(codes, BlockCodes))
    ):
        raise ValueError(
            f"{name} in {format} has no layout beside activations of 8 bits, which go with"
            " weights in e4m3fn under float scales and in integers of 8 bits; leave activations out"
        )
    from_zero = format.element.min == 0
    integers = {"": np.asarray(codes.codes), "_zero_point": codes.zero_points}
    bytes_ = {
        ending: (np.asarray(part) ^ (0x80 if from_zero else 0)).astype(np.uint8).view(np.int8)
        for ending, part in integers.items()
        if part is not None
    }
    return "int-quantized", {**bytes_, "_scale": parts["_scale"]}


def _integers(
    said: dict[str, Any], shape: tuple[int, ...], format: Block, codes: BlockCodes
) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """`pack-quantized`: numbers from 0 for the least integer, in words of 32 bits along the rows,
    those of zero points along the columns.
    """
    bits, symmetric = INTEGERS[format.element]
    said |= {"type": "int", "symmetric": symmetric}
    least = 1 << (bits - 1)
    from_zero = np.asarray(codes.codes) ^ (least if symmetric else 0)
    floats = _under_its_dtype(np.asarray(codes.scales), format.scale)
    parts = {
        "_packed": _in_words(from_zero, bits),
        "_scale": floats.reshape((1,) if said["strategy"] == "tensor" else floats.shape),
        "_shape": np.array(shape, np.int64),
    }
    if codes.zero_points is not None:
        zeros = np.asarray(codes.zero_points)
        parts["_zero_point"] = np.ascontiguousarray(_in_words(zeros.T, bits).T)
    return "pack-quantized", said, parts


def _in_words(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes along the rows of a matrix, one after the other, the first in the lowest bits."""
    rows, columns = codes.shape
    padded = np.zeros((rows, -(-columns // 32) * 32), np.uint8)
    padded[:, :columns] = codes
    words = np.stack([pack(row, bits) for row in padded]).view("<u4").view(np.int32)
    return np.ascontiguousarray(words[:, : -(-columns * bits // 32)])


def _strategy(extents: tuple[int | None, ...]) -> dict[str, Any]:
    """How compressed-tensors calls such blocks of a matrix."""
    rows, columns = extents
    if rows is None and columns is None:
        return {"strategy": "tensor"}
    if rows == 1:
        return (
            {"strategy": "channel"}
            if columns is None
            else {"strategy": "group", "group_size": columns}
        )
    return {"strategy": "block", "block_structure": [rows, columns]}


def _divisor(format: Block, second: np.ndarray) -> np.ndarray:
    """What the scales of blocks are divided by. Of the rule "transformer_engine" the second scale
    is amax, by which clause BLK-11 means amax/(448·6).
    """
    whole = second.view(np.float32).reshape(1)
    one = np.float32(E4M3.max * E2M1.max if format.rule == "transformer_engine" else 1)
    divisor: np.ndarray = np.where(whole == 0, one, one / np.where(whole == 0, one, whole))
    return divisor


def _under_its_dtype(scales: np.ndarray, format: Format) -> np.ndarray:
    dtype = FLOATS[format]
    if dtype == "bfloat16":
        return scales.view(require("ml_dtypes", FILES).bfloat16)
    return scales.view(dtype)


def _refused(name: str, x: QuantizedTensor) -> ValueError:
    return ValueError(
        f"{name}, of shape {x.shape} in {x.format}, has no place in compressed-tensors' layout,"
        f" which takes matrices whose names end in .weight, in: {ACCEPTED}"
    )
