"""Files of tensors: .npy, .npz and .safetensors, read one tensor at a time."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..arrays import namespace_of
from ..arrays.dtypes import SOURCE_DTYPES, source_dtype
from ..formats import Format
from ..ops.arguments import check_representable
from ..storage.tensor_files import open_tensors, write_tensors

SUFFIXES = (".npy", ".npz", ".safetensors")


class Tensors(NamedTuple):
    """The tensors of an open file."""

    names: list[str]
    read: Callable[[str], np.ndarray]
    """The tensor of a name. ValueError where the file is damaged, or has a dtype that NumPy
    lacks.
    """


@contextmanager
def open_file(path: Path) -> Iterator[Tensors]:
    """A file of tensors, opened. ValueError for a file of another kind."""
    if _suffix(path) == ".safetensors":
        with open_tensors(path) as file:
            yield Tensors(file.names, file.read)
        return
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        raise ValueError(
            f"{path}: not a file that numpy.save or numpy.savez wrote: {error}"
        ) from error
    if isinstance(loaded, np.ndarray):
        yield Tensors([path.stem], lambda name: _native(loaded))
        return
    with loaded:
        yield Tensors(list(loaded.files), lambda name: _member(path, loaded, name))


def write_file(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write tensors to a file of the kind that its suffix says. ValueError for what that kind
    cannot hold.
    """
    suffix = _suffix(path)
    if suffix == ".safetensors":
        write_tensors(path, tensors)
        return
    if suffix == ".npy" and len(tensors) != 1:
        raise ValueError(
            f"an .npy file holds one tensor, and there are {len(tensors)}; write an .npz or"
            " .safetensors file"
        )
    foreign = next((name for name, x in tensors.items() if x.dtype.kind == "V"), None)
    if foreign is not None:
        raise ValueError(
            f"{foreign} is of {tensors[foreign].dtype}, which {suffix} files cannot hold; write a "
            ".safetensors file"
        )
    if suffix == ".npz":
        np.savez(path, **tensors)  # type: ignore[arg-type]
    else:
        np.save(path, next(iter(tensors.values())))


def check_suffix(path: Path, *accepted: str) -> None:
    """ValueError unless the file name has one of these endings."""
    if path.suffix.lower() not in accepted:
        raise ValueError(f"{path}: expected a file name that ends in {' or '.join(accepted)}")


def is_floating(x: np.ndarray) -> bool:
    """Whether a tensor is of a dtype that `quantize` takes."""
    return str(x.dtype) in SOURCE_DTYPES


def in_a_dtype_for(x: np.ndarray, format: Format) -> np.ndarray:
    """The tensor; in float32 or float64, where its own dtype cannot hold the format. ValueError
    where none can.
    """
    for dtype in (namespace_of(x).dtype(x), "float32", "float64"):
        try:
            check_representable(format, source_dtype(dtype))
        except TypeError as error:
            refused = error
        else:
            return x if str(x.dtype) == dtype else x.astype(dtype)
    raise ValueError(str(refused)) from refused


def _suffix(path: Path) -> str:
    check_suffix(path, *SUFFIXES)
    return path.suffix.lower()


def _member(path: Path, loaded: Any, name: str) -> np.ndarray:
    try:
        return _native(loaded[name])
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise ValueError(f"{path}: {name} cannot be read: {error}") from error


def _native(x: np.ndarray) -> np.ndarray:
    """The array in this machine's byte order."""
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))
