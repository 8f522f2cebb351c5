"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): the official Python files, or CIFAR-10 as JPEG in one
npz file.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, NoReturn
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ..._util.extras import EXPERIMENTS, require
from .types import LabeledImages

CLASSES = {"cifar10": 10, "cifar100": 100}
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
"""Of the channels, as the code of the SWA papers has them."""

FILES = {
    "cifar10": (
        "cifar-10-batches-py",
        tuple(f"data_batch_{n}" for n in range(1, 6)),
        "test_batch",
        b"labels",
    ),
    "cifar100": ("cifar-100-python", ("train",), "test", b"fine_labels"),
}
"""Folder, training files, test file, key of the labels."""
JPEG = "cifar10_jpeg.npz"


def cifar(dataset: str, folder: Path, subset: int = 0) -> tuple[LabeledImages, LabeledImages]:
    """(training, test) images from `folder`; of JPEG no more than the first `subset` training
    images are decoded.

    FileNotFoundError where there are neither the official files nor, for CIFAR-10,
    `cifar10_jpeg.npz`; ValueError if they are damaged.
    """
    name, train, test, key = FILES[dataset]
    for place in (folder / name, folder):
        if (place / test).is_file():
            parts = [_read(place / file, key) for file in train]
            return LabeledImages(*map(np.concatenate, zip(*parts, strict=True))), _read(
                place / test, key
            )
    if dataset == "cifar10" and (folder / JPEG).is_file():
        return _read_jpeg(folder / JPEG, subset)
    raise FileNotFoundError(
        f"--data-dir {folder} must hold the folder {name} of the official Python"
        f" version{f', or {JPEG}' if dataset == 'cifar10' else ''}; download"
        f" {name.replace('-batches-py', '-python')}.tar.gz from"
        " https://www.cs.toronto.edu/~kriz/cifar.html and unpack it there"
    )


class _Plain(pickle.Unpickler):
    """Reads NumPy arrays and built-in values; a file that asks for anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
        }:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in CIFAR's files")


def _read(path: Path, key: bytes) -> LabeledImages:
    try:
        with path.open("rb") as file:
            content = _Plain(file, encoding="bytes").load()
        images, labels = np.asarray(content[b"data"]), np.asarray(content[key])
    except (
        OSError,
        pickle.UnpicklingError,
        EOFError,
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
    ) as error:
        _damaged(path, error)
    if (
        images.shape != (len(labels), 3072)
        or images.dtype != np.uint8
        or labels.dtype.kind not in "iu"
    ):
        _damaged(
            path, f"images {images.dtype} {images.shape}, labels {labels.dtype} {labels.shape}"
        )
    return LabeledImages(images.reshape(-1, 3, 32, 32), labels.astype(np.int64))


def _read_jpeg(path: Path, subset: int) -> tuple[LabeledImages, LabeledImages]:
    """`jpeg_train` holds the files one after another, image i from `offset_train[i]` on; so does
    `jpeg_test`.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return (
                _decode(file["jpeg_train"], file["offset_train"], file["y_train"], subset),
                _decode(file["jpeg_test"], file["offset_test"], file["y_test"], 0),
            )
    except (KeyError, OSError, ValueError, EOFError, BadZipFile) as error:
        _damaged(path, error)


def _decode(
    stream: NDArray[np.uint8],
    offset: NDArray[np.int64],
    labels: NDArray[np.integer[Any]],
    count: int,
) -> LabeledImages:
    image = require("PIL.Image", EXPERIMENTS)
    count = min(count or len(labels), len(labels))
    decoded = [
        np.asarray(
            image.open(io.BytesIO(stream[offset[i] : offset[i + 1]].tobytes())).convert("RGB")
        )
        for i in range(count)
    ]
    return LabeledImages(
        np.ascontiguousarray(np.stack(decoded).transpose(0, 3, 1, 2)),
        labels[:count].astype(np.int64),
    )


def _damaged(path: Path, why: object) -> NoReturn:
    raise ValueError(f"{path} is not one of CIFAR's files: {why}")
