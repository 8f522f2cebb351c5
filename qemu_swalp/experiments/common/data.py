"""The data sets: scikit-learn's digits, bundled with it, and MNIST, from a folder, the cache or the
network.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ..._util.extras import EXPERIMENTS, require

MNIST_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
MNIST_KEYS = ("x_train", "y_train", "x_test", "y_test")
MNIST_COUNTS = (60_000, 10_000)
CLASSES = 10


class Dataset(NamedTuple):
    """Images as float32 rows in [0, 1], labels as integers 0..9."""

    train: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test: NDArray[np.float32]
    test_labels: NDArray[np.int64]


def digits(test: int = 600) -> Dataset:
    """scikit-learn's 1,797 images of 8×8 pixels, in one fixed random order, the last `test` of them
    for testing.
    """
    bunch = require("sklearn.datasets", EXPERIMENTS).load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    x, y = (bunch.data[order] / 16).astype(np.float32), bunch.target[order].astype(np.int64)
    return Dataset(x[:-test], y[:-test], x[-test:], y[-test:])


def mnist(folder: str = "") -> Dataset:
    """MNIST from `folder`/mnist.npz; without a folder from the cache, to which the first call
    downloads it.

    ValueError if the file is not that of keras.datasets.mnist. If it is missing, FileNotFoundError
    or ConnectionError, which say how to go on.
    """
    path = Path(folder).expanduser() / "mnist.npz" if folder else cache() / "mnist.npz"
    if not path.is_file():
        if folder:
            raise FileNotFoundError(
                f"--data-dir {folder} holds no mnist.npz; put the file from {MNIST_URL} there, or "
                "leave --data-dir out to download it"
            )
        download(MNIST_URL, path)
    return read_mnist(path)


def read_mnist(path: Path) -> Dataset:
    """The arrays of a file with the keys, shapes and dtypes of keras.datasets.mnist, any number of
    images.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, Any] = {key: file[key] for key in MNIST_KEYS}
    except (KeyError, OSError, ValueError, EOFError, BadZipFile) as error:
        raise ValueError(
            f"{path} is not MNIST's mnist.npz with the arrays {', '.join(MNIST_KEYS)}: {error}"
        ) from error
    for part in ("train", "test"):
        _check(path, part, arrays[f"x_{part}"], arrays[f"y_{part}"])
    x_train, y_train, x_test, y_test = (arrays[key] for key in MNIST_KEYS)
    return Dataset(
        _pixels(x_train), y_train.astype(np.int64), _pixels(x_test), y_test.astype(np.int64)
    )


def _pixels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)


def _check(path: Path, part: str, x: NDArray[Any], y: NDArray[Any]) -> None:
    images = x.ndim == 3 and x.shape[1:] == (28, 28) and x.dtype == np.uint8
    if not images or y.shape != x.shape[:1] or y.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: x_{part} must be uint8 of shape (n, 28, 28) and y_{part} n integers, got"
            f" {x.dtype} {x.shape} and {y.dtype} {y.shape}"
        )
    if not len(y) or y.min() < 0 or y.max() >= CLASSES:
        raise ValueError(f"{path}: y_{part} must hold labels from 0 to 9")


def cache() -> Path:
    """Where downloads are kept: qemu_swalp in $XDG_CACHE_HOME, by default ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qemu_swalp"


def download(url: str, path: Path) -> None:
    """Fetch a file whole or not at all, and check that it is all of MNIST. ConnectionError that
    says how to go on.
    """
    import urllib.request

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.part")
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            partial.write_bytes(answer.read())
        data = read_mnist(partial)
        if (len(data.train), len(data.test)) != MNIST_COUNTS:
            raise ValueError(
                f"{url} holds {len(data.train)} + {len(data.test)} images instead of 60000 + 10000"
            )
        partial.replace(path)
    except OSError as error:  # urllib's errors are OSErrors
        raise ConnectionError(
            f"cannot download MNIST from {url} ({error}); fetch mnist.npz where there is a network "
            "and pass the folder that holds it as --data-dir FOLDER"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
