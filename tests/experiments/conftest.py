"""A small stand-in for MNIST."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


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
