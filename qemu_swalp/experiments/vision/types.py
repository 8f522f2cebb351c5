"""What data sets, models and runs hand to one another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Batch = tuple[Tensor, Tensor]
"""Images (n, channels, height, width) in float32, normalized; labels (n) in int64."""


class LabeledImages(NamedTuple):
    """Images as uint8 (n, channels, height, width), labels (n)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


class Source(Protocol):
    """Where a training run gets its batches from."""

    @property
    def classes(self) -> int:
        """Number of labels."""

    def __len__(self) -> int:
        """Number of training images."""

    def train(self, seed: int, epoch: int, batch: int) -> Iterator[Batch]:
        """All training images in an order, and distorted in a way, that (seed, epoch) give; the
        last batch is short.
        """

    def held_out(self, part: str, batch: int) -> Iterator[Batch]:
        """All "validation" or "test" images, as they are."""
