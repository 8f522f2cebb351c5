"""Small data sets in the files of the real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.experiments.folders import write_cifar, write_imagenet, write_jpeg


@pytest.fixture(scope="session")
def mnist_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an mnist.npz of 600 + 200 images: ten blurred patterns under noise."""
    folder = tmp_path_factory.mktemp("mnist")
    random = np.random.default_rng(7)
    patterns = np.kron(random.uniform(0, 255, (10, 7, 7)), np.ones((4, 4)))
    arrays = {}
    for part, count in (("train", 600), ("test", 200)):
        labels = random.integers(0, 10, count).astype(np.uint8)
        images = patterns[labels] * 0.25 + random.uniform(0, 191, (count, 28, 28))
        arrays |= {f"x_{part}": images.astype(np.uint8), f"y_{part}": labels}
    np.savez(folder / "mnist.npz", **arrays)
    return folder


@pytest.fixture(scope="session")
def data_folder(mnist_folder: Path) -> Path:
    """A folder with MNIST, CIFAR-10 and CIFAR-100 (official files) and ImageNet, all tiny."""
    for dataset in ("cifar10", "cifar100"):
        write_cifar(mnist_folder, dataset)
    write_imagenet(mnist_folder)
    return mnist_folder


@pytest.fixture(scope="session")
def jpeg_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with CIFAR-10 as JPEG."""
    folder = tmp_path_factory.mktemp("jpeg")
    write_jpeg(folder)
    return folder
