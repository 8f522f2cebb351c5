"""Checkpoints as people have them: arrays of values or of codes, by the names of the model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .layouts import Stored, arrays_of
from .quantization_config import quantization_config
from .safetensors import KEY, state_readers
from .sources import open_source


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint, read array by array."""

    path: Path
    metadata: Mapping[str, str]
    """`__metadata__` of safetensors files, without our own."""
    readers: Mapping[str, Callable[[], Stored]]
    """One for all names of an array."""

    @property
    def names(self) -> list[str]:
        return list(self.readers)

    @cached_property
    def first(self) -> dict[str, str]:
        """Name → the first name of the same array."""
        named: dict[Callable[[], Stored], str] = {}
        return {name: named.setdefault(read, name) for name, read in self.readers.items()}

    def read(self, name: str) -> Stored:
        """The array of a name. ValueError where it is damaged."""
        try:
            return self.readers[name]()
        except ValueError as error:
            raise _at(self.path, error) from error


@contextmanager
def open_checkpoint(path: str | os.PathLike[str]) -> Iterator[Checkpoint]:
    """What `load_checkpoint` reads, open for reading array by array; errors as there."""
    path = Path(path)
    with open_source(path) as source:
        try:
            if KEY in source.metadata:
                readers = state_readers(source)
            else:
                readers = arrays_of(source, quantization_config(path))
        except ValueError as error:
            raise _at(path, error) from error
        metadata = {key: value for key, value in source.metadata.items() if key != KEY}
        yield Checkpoint(path, metadata, readers)


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The arrays of a checkpoint that this or another program wrote, by the model's names.

    Parameters
    ----------
    path : a `.safetensors`, `.npy`, `.npz`, PyTorch (`.pt`, `.pth`, `.bin`) or `.gguf` file; the
        index of a sharded checkpoint (`model.safetensors.index.json`); or a folder with one of
        these. `config.json` beside it is asked where arrays do not say all.

    Returns
    -------
    names → `QuantizedTensor` where an array is stored as codes of a format, else NumPy arrays.
    Known are files of `save_state`; safetensors' 8-, 6- and 4-bit floats; compressed-tensors (FP8,
    INT8, MXFP8, MXFP6, MXFP4, NVFP4, packed integers); DeepSeek's FP8 tiles; gpt-oss's MXFP4;
    ModelOpt's NVFP4; GPTQ and AWQ. NVFP4, GPTQ with groups that are no runs, and GGUF give values.

    Raises
    ------
    ValueError: if the file is damaged or of another kind, or if parts of an array are missing.
    OSError: if it cannot be read.
    ImportError: without safetensors, PyTorch or gguf where these read the file.

    Sources: the packages compressed-tensors and gguf; AutoGPTQ; AutoAWQ; DeepSeek-V3 (2024),
    section 3.3.2; OpenAI's gpt-oss.

    >>> import tempfile, pathlib, ml_dtypes, numpy as np
    >>> from safetensors.numpy import save_file
    >>> stored = {"fc.weight": np.float32([[1.0, 0.5]]).astype(ml_dtypes.float8_e4m3fn)}
    >>> stored["fc.weight_scale_inv"] = np.float32([[0.25]])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_file(stored, pathlib.Path(folder) / "model.safetensors")
    ...     state = load_checkpoint(folder)
    >>> str(state["fc.weight"].format), state["fc.weight"].decode().tolist()
    ('fp8_128x128', [[0.25, 0.125]])
    """
    with open_checkpoint(path) as checkpoint:
        arrays = {name: checkpoint.read(name) for name in set(checkpoint.first.values())}
        return {name: arrays[first] for name, first in checkpoint.first.items()}


def _at(path: Path, error: ValueError) -> ValueError:
    """The error with the path before it, if it does not give one itself."""
    return error if str(error).startswith(str(path)) else ValueError(f"{path}: {error}")
