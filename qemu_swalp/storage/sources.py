"""Arrays by name, as files of any kind hold them."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._util.extras import GGUF, TORCH, require
from .host_arrays import in_own_dtype, memory_of
from .quantization_config import json_object
from .tensor_files import open_tensors

SUFFIXES = (".npy", ".npz", ".safetensors", ".pt", ".pth", ".bin", ".gguf")
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WHOLE = ("model.safetensors", "pytorch_model.bin")


class Source(NamedTuple):
    """The arrays of an open file, or of the shards of a checkpoint."""

    names: list[str]
    read: Callable[[str], np.ndarray]
    """The array of a name. ValueError where the file is damaged, or has a dtype that NumPy
    lacks.
    """
    dtype: Callable[[str], str]
    """The name of an array's dtype."""
    metadata: Mapping[str, str] = {}
    same_as: Mapping[str, str] = {}
    """Name → the name of the same array before it, of those that have one."""


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """A file of arrays, an index of shards, or a folder with one. ValueError for another kind."""
    path = _in_folder(path) if path.is_dir() else path
    suffix = path.suffix.lower()
    with ExitStack() as stack:
        if path.name.endswith(".index.json"):
            yield _shards(path, stack)
        elif suffix == ".safetensors":
            file = stack.enter_context(open_tensors(path))
            yield Source(file.names, file.read, file.dtype, file.metadata)
        elif suffix in (".npy", ".npz"):
            yield _numpy_file(path, stack)
        elif suffix in (".pt", ".pth", ".bin"):
            yield _torch_file(path)
        elif suffix == ".gguf":
            yield _gguf_file(path)
        else:
            raise ValueError(
                f"{path}: expected a folder, an index of shards (.index.json) or a file name that"
                f" ends in {' or '.join(SUFFIXES)}"
            )


def _in_folder(folder: Path) -> Path:
    """The index or the only file of a checkpoint's folder."""
    for name in (*INDICES, *WHOLE):
        if (folder / name).is_file():
            return folder / name
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".gguf"))
    if len(files) != 1:
        raise ValueError(
            f"{folder}: expected {' or '.join((*INDICES, *WHOLE))}, or one other .safetensors or"
            f" .gguf file, found {len(files)}; give the file itself"
        )
    return files[0]


def _shards(index: Path, stack: ExitStack) -> Source:
    """The files that an index assigns each array to."""
    content = json_object(index)
    place = content.get("weight_map")
    if not isinstance(place, dict) or not all(isinstance(file, str) for file in place.values()):
        raise ValueError(f"{index}: damaged: it must give the file of each array by weight_map")
    files: dict[str, Source] = {}
    for file in dict.fromkeys(place.values()):
        shard = index.parent / file
        if Path(file).name != file or not shard.is_file():
            raise ValueError(f"{index}: there is no file {file!r} beside it")
        if shard.suffix.lower() not in SUFFIXES:
            raise ValueError(
                f"{index}: damaged: {file!r} is no file of arrays, whose names end in"
                f" {' or '.join(SUFFIXES)}"
            )
        files[file] = stack.enter_context(open_source(shard))
    for file, shard in files.items():
        there, announced = set(shard.names), {name for name, f in place.items() if f == file}
        for names, what in (
            (announced - there, "lacks"),
            (there - announced, "holds, unannounced,"),
        ):
            if names:
                raise ValueError(f"{index}: damaged: {file} {what} {', '.join(sorted(names))}")
    metadata = {key: value for shard in files.values() for key, value in shard.metadata.items()}
    return Source(
        list(place),
        lambda name: files[place[name]].read(name),
        lambda name: files[place[name]].dtype(name),
        metadata,
    )


def _of_arrays(arrays: Mapping[str, np.ndarray]) -> Source:
    return Source(list(arrays), arrays.__getitem__, lambda name: arrays[name].dtype.name)


# NumPy


def _numpy_file(path: Path, stack: ExitStack) -> Source:
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        raise ValueError(
            f"{path}: not a file that numpy.save or numpy.savez wrote: {error}"
        ) from error
    if isinstance(loaded, np.ndarray):
        return _of_arrays({path.stem: _native(loaded)})
    members = stack.enter_context(loaded)

    def read(name: str) -> np.ndarray:
        return _member(path, members, name)

    return Source(list(members.files), read, lambda name: read(name).dtype.name)


def _member(path: Path, loaded: Any, name: str) -> np.ndarray:
    try:
        return _native(loaded[name])
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise ValueError(f"{path}: {name} cannot be read: {error}") from error


def _native(x: np.ndarray) -> np.ndarray:
    """The array in this machine's byte order."""
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


# PyTorch


def _torch_file(path: Path) -> Source:
    """The tensors of a file of `torch.save`, by the names and, of nested mappings and lists, by the
    keys on the way, joined by dots. What is no tensor is left out. Tied weights share their memory.
    """
    torch = require("torch", TORCH)
    with path.open("rb"):  # an OSError that says why, if it cannot be read
        pass
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickle, zipfile and PyTorch, as many kinds as there are damages
        raise ValueError(
            f"{path}: not a file of tensors that torch.load(…, weights_only=True) reads; save the"
            f" model's state_dict(). It said: {_first_line(error)}"
        ) from error
    tensors: dict[str, np.ndarray] = {}
    first: dict[object, str] = {}
    same_as: dict[str, str] = {}

    def collect(name: str, x: Any) -> None:
        if isinstance(x, torch.Tensor):
            name = name or path.stem
            if name in tensors:
                raise ValueError(f"{path}: two tensors are called {name}; rename one of them")
            try:
                tensors[name] = in_own_dtype(name, x.detach())
            except (TypeError, RuntimeError) as error:
                raise ValueError(
                    f"{path}: {name} is no dense tensor with values, but {x.layout} on the device"
                    f" {x.device} of {x.dtype}; save a dense one, as to_dense() or dequantize()"
                    " gives it, or leave it out"
                ) from error
            if first.setdefault(memory_of(x), name) != name:
                same_as[name] = first[memory_of(x)]
        elif isinstance(x, Mapping | list | tuple):
            members = x.items() if isinstance(x, Mapping) else enumerate(x)
            for key, value in members:
                collect(f"{name}.{key}" if name else str(key), value)

    collect("", content)
    return _of_arrays(tensors)._replace(same_as=same_as)


def _first_line(error: Exception) -> str:
    """Of what PyTorch said, without what colours it on a terminal."""
    said = re.sub(r"\x1b\[\d*m", "", str(error)).strip().partition("\n")[0]
    return said or type(error).__name__


# GGUF


def _gguf_file(path: Path) -> Source:
    """The arrays of a GGUF file in float32, by the arithmetic of the package gguf; those that are
    stored in a dtype of NumPy in that.
    """
    gguf = require("gguf", GGUF)
    with path.open("rb"):  # an OSError that says why, if it cannot be read
        pass
    try:
        reader = gguf.GGUFReader(path)
    except Exception as error:  # of gguf and of NumPy, as many kinds as there are damages
        raise ValueError(f"{path}: not a GGUF file: {error}") from error
    tensors = {tensor.name: tensor for tensor in reader.tensors}

    def read(name: str) -> np.ndarray:
        tensor = tensors[name]
        if tensor.tensor_type.name in ("F16", "F32", "F64", "I8", "I16", "I32", "I64"):
            return np.array(tensor.data)
        if tensor.n_elements == 0:
            return np.zeros(tensor.shape[::-1], np.float32)
        try:
            values: np.ndarray = gguf.dequantize(tensor.data, tensor.tensor_type)
        except (NotImplementedError, ValueError) as error:
            raise ValueError(f"{path}: {name} is of {tensor.tensor_type.name}: {error}") from error
        return values

    return Source(list(tensors), read, lambda name: read(name).dtype.name)
