"""Safetensors files as NumPy arrays by name; bfloat16 and 8-bit floats are those of ml_dtypes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._util.extras import FILES, require

FLOAT8 = {
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}
"""The file's name of a dtype → ml_dtypes'."""


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    metadata: dict[str, str] | None = None,
) -> None:
    """Write a safetensors file, whole or not at all.

    Raises ValueError if a dtype is one that such files lack, OSError if writing fails.
    """
    safetensors = require("safetensors.numpy", FILES)
    for name, x in tensors.items():
        if x.dtype.kind not in "biufc" and x.dtype.name not in ("bfloat16", *FLOAT8.values()):
            raise ValueError(
                f"{name} is of dtype {x.dtype}, which safetensors files cannot hold; leave it out"
            )
    contiguous = {name: np.ascontiguousarray(x).reshape(x.shape) for name, x in tensors.items()}
    try:  # it writes a temporary file, which then gets the name
        safetensors.save_file(contiguous, os.fspath(path), metadata)
    except require("safetensors", FILES).SafetensorError as error:
        raise OSError(f"cannot write {os.fspath(path)}: {error}") from error


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

    def read(self, name: str) -> np.ndarray:
        """The array of a name. Raises ValueError if NumPy and ml_dtypes lack its dtype."""
        dtype = self.handle.get_slice(name).get_dtype()
        if dtype in FLOAT8:
            return self._read_bytes(name).view(getattr(require("ml_dtypes", FILES), FLOAT8[dtype]))
        if dtype == "BF16":
            require("ml_dtypes", FILES)
        try:
            array: np.ndarray = self.handle.get_tensor(name)
        except (AttributeError, TypeError) as error:
            raise ValueError(f"{name} has the dtype {dtype}, which NumPy does not have") from error
        return array

    def _read_bytes(self, name: str) -> np.ndarray:
        """The bytes of an array of an 8-bit dtype that safetensors does not give to NumPy.

        A file begins with the length of its header in 8 bytes and the header in JSON, which gives
        offsets from its own end; `safe_open` has checked them.
        """
        with open(self.path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            entry = json.loads(file.read(length))[name]
            first, end = entry["data_offsets"]
            file.seek(8 + length + first)
            return np.frombuffer(file.read(end - first), np.uint8).reshape(entry["shape"]).copy()


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
