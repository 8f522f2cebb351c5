"""Tiny data sets in the files that the real ones come in: CIFAR's pickles, CIFAR-10 as JPEG,
ImageNet's folders.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
from PIL import Image


def pictures(classes: int, count: int, side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 images (count, side, side, 3), labels): a patch of colour for each class under
    noise.
    """
    patterns = np.random.default_rng(5).uniform(0, 255, (classes, 4, 4, 3))
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    images = np.kron(patterns[labels], np.ones((1, side // 4, side // 4, 1)))
    return (images * 0.5 + random.uniform(0, 127, images.shape)).astype(np.uint8), labels


def write_cifar(folder: Path, dataset: str) -> None:
    """The official Python version, 100 images in each file."""
    classes, name, train, test, key = {
        "cifar10": (
            10,
            "cifar-10-batches-py",
            [f"data_batch_{n}" for n in range(1, 6)],
            "test_batch",
            b"labels",
        ),
        "cifar100": (100, "cifar-100-python", ["train"], "test", b"fine_labels"),
    }[dataset]
    (folder / name).mkdir(parents=True)
    for seed, file in enumerate([*train, test]):
        images, labels = pictures(classes, 100, 32, seed)
        content = {
            b"data": images.transpose(0, 3, 1, 2).reshape(100, 3072),
            key: labels.tolist(),
            b"filenames": [],
        }
        (folder / name / file).write_bytes(pickle.dumps(content, protocol=2))


def write_jpeg(folder: Path) -> None:
    """cifar10_jpeg.npz with 300 + 100 images."""
    arrays = {}
    for seed, (part, count) in enumerate((("train", 300), ("test", 100))):
        images, labels = pictures(10, count, 32, seed)
        files = []
        for image in images:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "JPEG", quality=75)
            files.append(buffer.getvalue())
        arrays |= {
            f"jpeg_{part}": np.frombuffer(b"".join(files), np.uint8),
            f"y_{part}": labels.astype(np.uint8),
            f"offset_{part}": np.cumsum([0, *map(len, files)]),
        }
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "cifar10_jpeg.npz", **arrays)


def write_imagenet(folder: Path) -> None:
    """train and val of three classes, 20 and 8 images each, of several sizes."""
    for seed, (part, count) in enumerate((("train", 20), ("val", 8))):
        for label in range(3):
            place = folder / part / f"n{label:08d}"
            place.mkdir(parents=True)
            images, _ = pictures(3, 3 * count, 64, seed)
            for i, image in enumerate(images[label::3]):
                Image.fromarray(image).resize((70 + 9 * i, 90)).save(place / f"{i}.JPEG")
