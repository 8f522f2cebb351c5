"""Image data sets in memory, and mini-batches of them that depend on (seed, epoch) alone, on
PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..common.data import mnist
from .cifar import CLASSES, MEAN, STD, cifar
from .imagenet import ImageNet
from .types import Batch, LabeledImages, Source


def batches_in(images: int, batch: int) -> int:
    """Mini-batches of an epoch; the last may be short."""
    return -(-images // batch)


@dataclass(frozen=True)
class Arrays:
    """A `Source` in memory. `train_set`, `validation`, `test` : its parts; validation may be empty.

    mean, std : of the channels, as fractions of 255. crop : pad with so many black pixels on each
        side, and cut at
    random, and flip every other image; 0 leaves them.
    """

    train_set: LabeledImages
    validation: LabeledImages
    test: LabeledImages
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int
    crop: int = 0

    def __len__(self) -> int:
        return len(self.train_set.labels)

    def train(self, seed: int, epoch: int, batch: int) -> Iterator[Batch]:
        random = np.random.default_rng((seed, epoch))
        order = random.permutation(len(self))
        for first in range(0, len(self), batch):
            chosen = order[first : first + batch]
            images = self.train_set.images[chosen]
            if self.crop:
                images = distorted(images, self.crop, random)
            yield self._normalized(images), torch.from_numpy(self.train_set.labels[chosen])

    def held_out(self, part: str, batch: int) -> Iterator[Batch]:
        images, labels = {"validation": self.validation, "test": self.test}[part]
        for first in range(0, len(labels), batch):
            rows = slice(first, first + batch)
            yield self._normalized(images[rows]), torch.from_numpy(labels[rows])

    def _normalized(self, images: NDArray[np.uint8]) -> Tensor:
        shape = (1, -1, 1, 1)
        mean, std = torch.tensor(self.mean).view(shape), torch.tensor(self.std).view(shape)
        return (torch.from_numpy(images).float() / 255 - mean) / std


def distorted(
    images: NDArray[np.uint8], pad: int, random: np.random.Generator
) -> NDArray[np.uint8]:
    """Each image shifted by up to `pad` pixels each way, black moving in, and mirrored every other
    time.
    """
    count, _, height, width = images.shape
    padded = np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    top, left = random.integers(0, 2 * pad + 1, (2, count, 1))
    rows, columns = top + np.arange(height), left + np.arange(width)
    mirrored = random.integers(0, 2, count).astype(bool)
    columns[mirrored] = columns[mirrored, ::-1]
    moved = padded[np.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return np.ascontiguousarray(moved.transpose(0, 3, 1, 2))


def split(
    pictures: LabeledImages, subset: int, validation: int
) -> tuple[LabeledImages, LabeledImages]:
    """(training, validation): the first `subset` images, 0 for all, of which the last are held out.

    ValueError if none are left to train on.
    """
    images, labels = first(pictures, subset)
    cut = len(labels) - validation
    if cut <= 0:
        raise ValueError(
            f"--validation must be less than the {len(labels)} images there are, got {validation}"
        )
    return LabeledImages(images[:cut], labels[:cut]), LabeledImages(images[cut:], labels[cut:])


def first(pictures: LabeledImages, count: int) -> LabeledImages:
    """The first `count` images, 0 for all."""
    return LabeledImages(pictures.images[: count or None], pictures.labels[: count or None])


def load_dataset(dataset: str, folder: str, subset: int, validation: int, test: int) -> Source:
    """The data set of that name; of its test images the first `test`, 0 for all.

    FileNotFoundError, which names the files, if they are missing; ValueError if they are damaged.
    """
    if dataset == "mnist":
        data = mnist(folder)
        train, tests = (
            LabeledImages((x * 255).round().astype(np.uint8).reshape(-1, 1, 28, 28), y)
            for x, y in ((data.train, data.train_labels), (data.test, data.test_labels))
        )
        return Arrays(
            *split(train, subset, validation), first(tests, test), (0.1307,), (0.3081,), 10
        )
    if not folder:
        raise FileNotFoundError(f"--data-dir is needed: the folder that holds {dataset}")
    place = Path(folder).expanduser()
    if dataset == "imagenet":
        return ImageNet(place, subset, validation, test)
    train, tests = cifar(dataset, place, subset)
    return Arrays(
        *split(train, subset, validation), first(tests, test), MEAN, STD, CLASSES[dataset], crop=4
    )
