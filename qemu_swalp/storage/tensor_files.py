"""Safetensors files as NumPy arrays by name; what NumPy lacks is of the dtypes of ml_dtypes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .._util.extras import FILES, require
from ..ops.pack import pack, unpack

DTYPES = {
    "BF16": ("bfloat16", 16),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "F6_E2M3": ("float6_e2m3fn", 6),
    "F6_E3M2": ("float6_e3m2fn", 6),
    "F4": ("float4_e2m1fn", 4),
}
"""The file's name of a dtype → ml_dtypes', and its bits in the file."""
_NUMPY = {"BOOL": "bool", "F16": "float16", "F32": "float32", "F64": "float64", "C64": "complex64"}
_NUMPY |= {f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)}
_NUMPY |= {f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)}
_NAMES = {dtype: (name, bits) for name, (dtype, bits) in DTYPES.items()} | {
    dtype: (name, 8 * np.dtype(dtype).itemsize) for name, dtype in _NUMPY.items()
}
"""A dtype of NumPy or ml_dtypes → the file's name of it, and its bits in the file."""


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file, whole or not at all.

    A file is the length of the header in 8 bytes, the header in JSON, filled up with blanks to a
    multiple of 8, and the arrays, the widest first, so that each is aligned.

    Raises ValueError if a dtype is one that such files lack, OSError if writing fails.
    """
    require("safetensors", FILES)
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    streams, end = [], 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name)):
        dtype, stream = _stream(name, tensors[name])
        begin, end = end, end + len(stream)
        shape = list(tensors[name].shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        streams.append(stream)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with whole(path) as part, open(part, "xb") as file:
        file.writelines((len(text).to_bytes(8, "little"), text, *streams))


@contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[str]:
    """The path of a file beside `path`, which takes its place once it is written.

    Raises OSError, which names `path`, if writing fails; `path` is then as before.
    """
    folder, name = os.path.split(os.fspath(path))
    if not os.path.isdir(folder or os.curdir):
        raise OSError(f"cannot write {os.fspath(path)}: there is no folder {folder}; make it first")
    part = os.path.join(folder, f".{name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        raise OSError(f"cannot write {os.fspath(path)}: {error}") from error
    finally:
        with suppress(OSError):
            os.unlink(part)


def _stream(name: str, x: np.ndarray) -> tuple[str, memoryview]:
    """The file's name of a dtype, and the bytes of an array of it."""
    if x.dtype.name not in _NAMES:
        raise ValueError(
            f"{name} is of dtype {x.dtype}, which safetensors files cannot hold; leave it out"
        )
    dtype, bits = _NAMES[x.dtype.name]
    if bits < 8:
        if x.size * bits % 8:
            raise ValueError(
                f"{name} has {x.size} elements of {bits} bits, which are no whole bytes, as"
                " safetensors files need; leave it out"
            )
        return dtype, pack(np.ascontiguousarray(x).view(np.uint8), bits).data
    little = np.ascontiguousarray(x.astype(x.dtype.newbyteorder("<"), copy=False))
    return dtype, little.reshape(-1).view(np.uint8).data


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file that is open for reading."""

    path: str
    handle: Any
    """As `safetensors.safe_open` gives it."""

    @property
    def names(self) -> list[str]:
        return list(self.handle.keys())

    @property
    def metadata(self) -> dict[str, str]:
        return self.handle.metadata() or {}

    def dtype(self, name: str) -> str:
        """The dtype that `read` gives; the file's name of it, if NumPy and ml_dtypes lack it."""
        dtype: str = self.handle.get_slice(name).get_dtype()
        return DTYPES[dtype][0] if dtype in DTYPES else _NUMPY.get(dtype, dtype)

    def read(self, name: str) -> np.ndarray:
        """The array of a name. Raises ValueError if NumPy and ml_dtypes lack its dtype.

        Arrays of 6 and 4 bits are stored packed, the first element in the lowest bits, and have an
        element for each byte here.
        """
        dtype = self.handle.get_slice(name).get_dtype()
        if dtype in DTYPES:
            return self._read_low_bit(name, *DTYPES[dtype])
        try:
            array: np.ndarray = self.handle.get_tensor(name)
        except (AttributeError, TypeError) as error:
            raise ValueError(f"{name} has the dtype {dtype}, which NumPy does not have") from error
        return array

    def _read_low_bit(self, name: str, dtype: str, bits: int) -> np.ndarray:
        """An array of a dtype that safetensors does not give to NumPy.

        `safe_open` has checked the header, whose offsets are from its own end.
        """
        start, entries = self._header
        shape, (first, end) = entries[name]["shape"], entries[name]["data_offsets"]
        with open(self.path, "rb") as file:
            file.seek(start + first)
            stream = np.frombuffer(file.read(end - first), np.uint8)
        if bits < 8:
            stream = unpack(stream, bits, (math.prod(shape),))
        array: np.ndarray = stream.view(getattr(require("ml_dtypes", FILES), dtype))
        return array.reshape(shape).copy()

    @cached_property
    def _header(self) -> tuple[int, dict[str, Any]]:
        """Where the data begin, and what is said of each array: a file begins with the length of
        its header in 8 bytes, and the header in JSON.
        """
        with open(self.path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            return 8 + length, json.loads(file.read(length))


@contextmanager
def open_tensors(path: str | os.PathLike[str]) -> Iterator[TensorFile]:
    """A safetensors file, open for reading array by array.

    Raises ValueError if it is not such a file, OSError if it cannot be read.
    """
    safetensors = require("safetensors", FILES)
    try:
        handle = safetensors.safe_open(os.fspath(path), "numpy")
    except safetensors.SafetensorError as error:
        raise ValueError(f"{os.fspath(path)}: no safetensors file: {error}") from error
    with handle:
        yield TensorFile(os.fspath(path), handle)
