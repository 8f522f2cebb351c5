"""What commands read from files of tensors, and the files that they write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from zipfile import ZipFile

import numpy as np

from ..arrays import namespace_of
from ..arrays.dtypes import SOURCE_DTYPES, source_dtype
from ..formats import Format
from ..ops.arguments import check_representable
from ..storage.layouts import Stored
from ..storage.tensor_files import whole, write_tensors

WRITTEN = (".npy", ".npz", ".safetensors")
READ = ".npy, .npz, .safetensors, .pt, .bin or .gguf file, index of shards, or folder with one"


def write_file(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write tensors to a file of the kind that its suffix says. ValueError for what that kind
    cannot hold.
    """
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        write_tensors(path, tensors, metadata)
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
    with whole(path) as part, open(part, "xb") as file:
        if suffix == ".npz":
            with ZipFile(file, "w") as archive:  # np.savez refuses names of its own arguments
                for name, x in tensors.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, x, allow_pickle=False)
        else:
            np.save(file, next(iter(tensors.values())))


def check_suffix(path: Path, *accepted: str) -> None:
    """ValueError unless the file name has one of these endings."""
    if path.suffix.lower() not in accepted:
        raise ValueError(f"{path}: expected a file name that ends in {' or '.join(accepted)}")


def is_floating(x: Stored) -> bool:
    """Whether the values of a tensor are of a dtype that `quantize` takes."""
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
