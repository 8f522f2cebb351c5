"""State dicts of codes as safetensors files.

An array of codes is stored as one array for each part, packed in uint8 (clause COD-5) or in a dtype
of such files: `NAME.codes`, `NAME.scales`, `NAME.second`, `NAME.zero_points`; any other array as it
is, so that any reader of safetensors finds it. The metadata key `qemu_swalp` holds JSON: `version`,
and `arrays`, which gives each array of the state, in its order, by `format` (spelled out; null:
stored as it is), `shape`, `dtype` and `crc32`, of the JSON list of its name and these three,
followed by the bytes of its parts. An array that another name before it has too is stored once, and
given by `same_as`, that name, and `crc32` of the JSON list of both.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..arrays.dtypes import source_dtype
from ..formats import Format, parse
from ..ops.arguments import check_representable
from ..ops.pack import packed_parts
from .host_arrays import in_own_dtype, memory_of
from .sources import Source
from .state_dict import QuantizedTensor
from .stored_parts import codes_of_parts, stored_parts
from .tensor_files import TensorFile, open_tensors, write_tensors

KEY = "qemu_swalp"
VERSION = 1
SAME = "same_as"


def save_state(
    path: str | os.PathLike[str],
    state: Mapping[str, Any],
    *,
    metadata: Mapping[str, str] | None = None,
    own_dtypes: bool = False,
) -> None:
    """Write a state dict, as `quantize_state_dict` makes it, to a safetensors file.

    Parameters
    ----------
    path : of the file, which is replaced only once it is written whole.
    state : names → `QuantizedTensor`, or arrays of any library, which are stored in their own
        dtype; of the low-bit floats e4m3fn, e5m2, e8m0fnu, e4m3fnuz, e5m2fnuz, e2m3fn, e3m2fn and
        e2m1fn can be.
    metadata : strings by name, kept beside our own: `__metadata__` of the file.
    own_dtypes : store codes and scales in the dtypes that such files name, where there is one.
        Other readers then see F8_E4M3, F4, F8_E8M0 or BF16 arrays in place of packed bytes.

    Raises
    ------
    TypeError: if an entry of `state` is not an array.
    ValueError: if two arrays would be stored under one name, or if such files lack a dtype.
    OSError: if the file cannot be written.
    ImportError: without safetensors, or without ml_dtypes where a dtype needs it.

    >>> import tempfile, pathlib, numpy as np
    >>> from qemu_swalp import quantize_state_dict
    >>> state = quantize_state_dict({"w": np.float32([0.1, 3.0]), "steps": np.int64(7)}, "e2m1fn")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "model.safetensors"
    ...     save_state(path, state)
    ...     state = load_state(path)
    >>> state["w"].decode().tolist(), state["w"].nbytes, state["steps"].tolist()
    ([0.0, 3.0], 1, 7)
    """
    stored: dict[str, np.ndarray] = {}
    arrays: dict[str, dict[str, object]] = {}
    first: dict[object, str] = {}
    for name, x in state.items():
        tied_to = first.setdefault(_identity(x), name)
        if tied_to != name:
            arrays[name] = {
                SAME: tied_to,
                "crc32": zlib.crc32(json.dumps([name, tied_to]).encode()),
            }
            continue
        if isinstance(x, QuantizedTensor):
            parts, entry = (
                stored_parts(name, x, own_dtypes),
                _Entry(x.format.canonical_string(), list(x.shape), x.dtype),
            )
        else:
            array = in_own_dtype(name, x)
            parts, entry = {name: array}, _Entry(None, list(array.shape), array.dtype.name)
        clash = next((part for part in parts if part in stored), None)
        if clash is not None:
            raise ValueError(f"two arrays would be stored as {clash!r}; rename one of them")
        stored |= parts
        arrays[name] = entry._asdict() | {"crc32": _checksum(name, entry, parts.values())}
    ours = {KEY: json.dumps({"version": VERSION, "arrays": arrays})}
    write_tensors(path, stored, {**(metadata or {}), **ours})


def load_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The state dict of a file that `save_state` wrote.

    Returns
    -------
    names → `QuantizedTensor` or NumPy arrays, in the order in which they were saved.

    Raises
    ------
    ValueError: with the path and what is wrong, if the file is damaged, of another version or
        incomplete, or if its formats are unknown here.
    ImportError: without safetensors.
    """
    with open_tensors(path) as file:
        try:
            readers = state_readers(file)
            arrays = {read: read() for read in dict.fromkeys(readers.values())}
            return {name: arrays[read] for name, read in readers.items()}
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from error


def _identity(x: Any) -> object:
    """What two names of one array have in common."""
    if isinstance(x, QuantizedTensor):
        return id(x)
    try:
        return memory_of(x)
    except TypeError:
        return id(x)  # no array, which is told where it is stored


class _Entry(NamedTuple):
    """What the metadata say of one array, as plain JSON values."""

    format: str | None
    shape: list[int]
    dtype: str


def _checksum(name: str, entry: _Entry, parts: Iterable[np.ndarray]) -> int:
    checksum = zlib.crc32(json.dumps([name, *entry]).encode())
    for part in parts:
        checksum = zlib.crc32(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data, checksum)
    return checksum


# Reading


def state_readers(file: TensorFile | Source) -> dict[str, Callable[[], Any]]:
    """What reads each array of a state that `save_state` wrote, one for all names of it.

    Raises ValueError if the metadata are damaged or an array is missing.
    """
    entries, first = _entries(file.metadata)
    formats = {name: _format(name, entry) for name, (entry, _) in entries.items()}
    stored = {
        name: (
            [name]
            if format is None
            else [f"{name}.{part}" for part in packed_parts(entries[name][0].shape, format)]
        )
        for name, format in formats.items()
    }
    there, announced = set(file.names), {part for parts in stored.values() for part in parts}
    for names, what in ((announced - there, "lacks"), (there - announced, "holds, unannounced,")):
        if names:
            raise ValueError(f"damaged: it {what} {', '.join(sorted(names))}")

    def reader(name: str) -> Callable[[], Any]:
        def read() -> Any:
            entry, checksum = entries[name]
            parts, format = [file.read(part) for part in stored[name]], formats[name]
            x = (
                _unquantized(name, entry, parts[0])
                if format is None
                else QuantizedTensor(
                    format, codes_of_parts(name, format, entry.shape, parts), entry.dtype
                )
            )
            if _checksum(name, entry, parts) != checksum:
                raise ValueError(f"damaged: {name} does not have the checksum {checksum!r}")
            return x

        return read

    readers = {name: reader(name) for name in entries}
    return {name: readers[tied_to] for name, tied_to in first.items()}


def _entries(
    metadata: Mapping[str, str],
) -> tuple[dict[str, tuple[_Entry, Any]], dict[str, str]]:
    """Of each stored array what the metadata say of it, and its checksum; and of all names, in
    their order, the one that the array is stored under.
    """
    if KEY not in metadata:
        raise ValueError(
            f"no state dict of qemu_swalp: its metadata lack the key {KEY!r}, which save_state"
            " writes"
        )
    try:
        content = json.loads(metadata[KEY])
    except json.JSONDecodeError as error:
        raise ValueError(f"damaged: its metadata {KEY!r} are not JSON: {error}") from error
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise ValueError(
            f"its metadata {KEY!r} have the version {version!r}, and this qemu_swalp reads"
            f" {VERSION}; use the release that wrote it"
        )
    arrays = content.get("arrays")
    keys = {*_Entry._fields, "crc32"}
    if not isinstance(arrays, dict) or not all(
        isinstance(entry, dict) and set(entry) in (keys, {SAME, "crc32"})
        for entry in arrays.values()
    ):
        raise ValueError(
            f"damaged: its metadata {KEY!r} must give each of the arrays by"
            f" {', '.join(sorted(keys))}"
        )
    tied: dict[str, Any] = {name: entry[SAME] for name, entry in arrays.items() if SAME in entry}
    for name, other in tied.items():
        right = zlib.crc32(json.dumps([name, other]).encode()) == arrays[name]["crc32"]
        if not right or not isinstance(other, str) or other not in arrays or other in tied:
            raise ValueError(f"damaged: {name} is said to be the same as {other!r}")
    entries = {
        name: (_Entry(entry["format"], entry["shape"], entry["dtype"]), entry["crc32"])
        for name, entry in arrays.items()
        if name not in tied
    }
    first = dict(zip(entries, entries, strict=True)) | tied
    return entries, {name: first[name] for name in arrays}


def _format(name: str, entry: _Entry) -> Format | None:
    """The format of an array of codes, all that is said of it being possible."""
    if entry.format is None:
        return None
    try:
        format = parse(entry.format)
        if not isinstance(entry.shape, list) or not all(
            type(length) is int for length in entry.shape
        ):
            raise ValueError(f"shape must be a list of integers, got {entry.shape!r}")
        check_representable(format, source_dtype(entry.dtype))
        packed_parts(entry.shape, format)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error
    return format


def _unquantized(name: str, entry: _Entry, array: np.ndarray) -> np.ndarray:
    if (array.dtype.name, list(array.shape)) != (entry.dtype, entry.shape):
        raise ValueError(
            f"damaged: {name} must be {entry.dtype} of shape {entry.shape}, got {array.dtype.name}"
            f" of shape {list(array.shape)}"
        )
    return array
