"""State dicts as GGUF files, which ggml and llama.cpp load."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from .._util.extras import GGUF, require
from ..formats import Block, parse
from ..formats.scale import GGML_MINIMUM
from ..ops.codes import BlockCodes
from .host_arrays import in_own_dtype
from .state_dict import QuantizedTensor
from .tensor_files import whole

LONGEST_NAME = 63
"""GGML_MAX_NAME without the final zero."""
RUN = 32
"""Elements of a block, in all layouts here."""

INTEGERS = {
    parse("fixed<8,0,symmetric>"): "Q8_0",
    parse("fixed<8,0>"): "Q8_0",
    parse("fixed<4,0>"): "Q4_0",
    parse("fixed<4,0,symmetric>"): "Q4_0",
    parse("fixed<5,0>"): "Q5_0",
    parse("fixed<5,0,symmetric>"): "Q5_0",
}
"""Elements under fp16 scales."""
ABOVE_A_MINIMUM = {
    parse("fixed<4,0,unsigned>"): "Q4_1",
    parse("fixed<5,0,unsigned>"): "Q5_1",
}
FLOATS = {parse("float<8,23>"): "float32", parse("fp16"): "float16", parse("bf16"): "bfloat16"}
PLAIN = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "bfloat16")
ACCEPTED = (
    "q4_0, q4_1, q5_0, q5_1, q8_0 and mxfp4, runs of 32 along the last axis; fp16, bf16, float32"
)


def save_gguf(
    path: str | os.PathLike[str],
    state: Mapping[str, Any],
    *,
    architecture: str = "unknown",
    metadata: Mapping[str, str | int | float | bool] | None = None,
) -> None:
    """Write a state dict to a GGUF file, by the package gguf.

    Parameters
    ----------
    path : of the file, which is replaced only once it is written whole.
    state : names → `QuantizedTensor` in q4_0, q4_1, q5_0, q5_1, q8_0 or mxfp4, in fp16 or in bf16.
        A scale rule may be another one, with the same elements and scales in runs of 32 along the
        last axis. Other arrays are stored as they are, bf16, float16 to float64 and int8 to int64.
    architecture : `general.architecture`, such as "llama".
    metadata : further keys and values. llama.cpp runs a model whose tensors have its names and
        whose hyper-parameters and vocabulary are there; this writes what it is given.

    Every value that the file's readers compute is that of `QuantizedTensor.decode`, the sign of
    zeros in mxfp4 apart, which they do not have.

    Raises
    ------
    TypeError: if a value of `metadata` is of another kind.
    ValueError: if a tensor is of another format, dtype or rank (1 to 4), or has blocks of NaN. Also
        if runs do not fill its rows, or if a name has more than 63 bytes.
    OSError: if the file cannot be written.
    ImportError: without gguf, or ml_dtypes where a dtype needs it.

    >>> import tempfile, pathlib, numpy as np
    >>> from qemu_swalp import load_checkpoint, quantize_state_dict
    >>> state = quantize_state_dict({"fc.weight": np.eye(2, 32, dtype=np.float32)}, "q4_0")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "model.gguf"
    ...     save_gguf(path, state, architecture="llama")
    ...     load_checkpoint(path)["fc.weight"][:, :3].astype(int).tolist()
    [[1, 0, 0], [0, 1, 0]]
    """
    gguf = require("gguf", GGUF)
    tensors = {name: _stored(name, x) for name, x in state.items()}
    long = next((name for name in tensors if len(name.encode()) > LONGEST_NAME), None)
    if long is not None:
        raise ValueError(
            f"{long} has more than the {LONGEST_NAME} bytes that ggml keeps of a name; rename it"
        )
    with whole(path) as part:
        writer = gguf.GGUFWriter(part, architecture)
        for key, value in (metadata or {}).items():
            _add(writer, key, value)
        for key, (kind, data) in tensors.items():
            raw = None if kind is None else gguf.GGMLQuantizationType[kind]
            writer.add_tensor(key, data, raw_dtype=raw)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _add(writer: Any, key: str, value: object) -> None:
    """A key with its value."""
    adders = {
        bool: writer.add_bool,
        str: writer.add_string,
        int: writer.add_int64,
        float: writer.add_float32,
    }
    if type(value) not in adders:
        raise TypeError(f"metadata[{key!r}] must be a str, int, float or bool, got {value!r}")
    adders[type(value)](key, value)


def _stored(name: str, x: Any) -> tuple[str | None, np.ndarray]:
    """The type that the file says of a tensor, None for those of NumPy, and its bytes in rows."""
    if isinstance(x, QuantizedTensor) and isinstance(x.format, Block):
        return _blocks(name, x, x.format)
    if isinstance(x, QuantizedTensor):
        if x.format not in FLOATS:
            raise _refused(name, f"in {x.format}")
        bits = np.asarray(x.codes)
        array = bits.view(f"u{bits.itemsize}").reshape(x.shape)
        dtype = FLOATS[x.format]
    else:
        array = in_own_dtype(name, x)
        dtype = array.dtype.name
    _check_rank(name, array.shape)
    if dtype not in PLAIN:
        raise _refused(name, f"of dtype {dtype}")
    if dtype == "bfloat16":
        return "BF16", np.ascontiguousarray(array).view(np.uint8)
    return None, np.ascontiguousarray(array).view(dtype)


def _blocks(name: str, x: QuantizedTensor, format: Block) -> tuple[str, np.ndarray]:
    """The bytes of ggml's blocks: scale, minimum, fifth bits, then two elements to a byte, that of
    the first half of the block in its lower bits.
    """
    codes, shape = x.codes, x.shape
    _check_rank(name, shape)
    kind = _kind(format)
    runs = format.extents(len(shape)) == (*[1] * (len(shape) - 1), RUN)
    if kind is None or not runs or not isinstance(codes, BlockCodes):
        raise _refused(name, f"in {format}")
    if shape[-1] % RUN:
        raise ValueError(
            f"{name} has rows of {shape[-1]} elements, which blocks of {RUN} do not fill, as GGUF"
            " needs; leave it as it is by the format None"
        )
    n = np.asarray(codes.codes).reshape(-1, RUN)
    head = [np.ascontiguousarray(codes.scales).reshape(-1, 1).view(np.uint8)]
    if kind == "MXFP4":
        if (head[0] == 255).any():
            raise ValueError(f"{name} has blocks of NaN, which GGUF's MXFP4 cannot hold")
    elif format.rule == GGML_MINIMUM:
        head.append(np.ascontiguousarray(codes.zero_points).reshape(-1, 1).view(np.uint8))
    elif kind != "Q8_0":  # codes from 0 for the least integer
        n = n ^ (1 << (format.bits - 1))
    if kind == "Q8_0":
        body = [n]
    else:
        low, high = n[:, : RUN // 2] & 15, n[:, RUN // 2 :] & 15
        fifth = [np.packbits(n >> 4, axis=1, bitorder="little")] if format.bits == 5 else []
        body = [*fifth, low | (high << 4)]
    rows = np.concatenate([*head, *body], axis=1, dtype=np.uint8)
    return kind, rows.reshape(*shape[:-1], shape[-1] // RUN * rows.shape[1])


def _kind(format: Block) -> str | None:
    """ggml's type of the blocks of a format; None if it has none."""
    if format.second is not None or format.rule == "minmax":
        return None
    if format.element == parse("e2m1fn") and format.scale == parse("e8m0fnu"):
        return "MXFP4"
    if format.scale != parse("fp16"):
        return None
    kinds = ABOVE_A_MINIMUM if format.rule == GGML_MINIMUM else INTEGERS
    return kinds.get(format.element)


def _check_rank(name: str, shape: tuple[int, ...]) -> None:
    if not 1 <= len(shape) <= 4:
        raise ValueError(f"{name} has {len(shape)} axes, and GGUF tensors have 1 to 4; reshape it")


def _refused(name: str, what: str) -> ValueError:
    return ValueError(f"{name}, {what}, has no type in GGUF files, which take: {ACCEPTED}")
