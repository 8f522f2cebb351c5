"""ImageNet from the usual folders, train/CLASS/*.JPEG and val/CLASS/*.JPEG, decoded by Pillow on
several threads.

A batch depends on (seed, epoch) alone: not on the number of threads, so an interrupted run goes on
to the same bits.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..._util.extras import EXPERIMENTS, require
from .types import Batch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE = 224
Box = tuple[float, float, float, float]
Example = tuple[Path, int]


class ImageNet:
    """A `Source`: crops of random area and shape at training, the central one of 256 pixels at
    test.
    """

    def __init__(self, folder: Path, subset: int, validation: int, test: int) -> None:
        names = sorted(path.name for path in (folder / "train").glob("*") if path.is_dir())
        if not names or not (folder / "val").is_dir():
            raise FileNotFoundError(
                f"--data-dir {folder} must hold ImageNet as train/CLASS/*.JPEG and val/CLASS/*.JPEG"
            )
        self.classes = len(names)
        train, tests = (
            _shuffled(folder / part, names, count)
            for part, count in (("train", subset), ("val", test))
        )
        cut = len(train) - validation
        if cut <= 0:
            raise ValueError(
                f"--validation must be less than the {len(train)} images there are, got"
                f" {validation}"
            )
        self.examples = train[:cut]
        self.parts = {"validation": train[cut:], "test": tests}

    def __len__(self) -> int:
        return len(self.examples)

    def train(self, seed: int, epoch: int, batch: int) -> Iterator[Batch]:
        order = np.random.default_rng((seed, epoch)).permutation(len(self))

        def distorted(i: int) -> NDArray[np.float32]:
            return random_crop(self.examples[i][0], np.random.default_rng((seed, epoch, i)))

        yield from _batches([(i, self.examples[i][1]) for i in order.tolist()], distorted, batch)

    def held_out(self, part: str, batch: int) -> Iterator[Batch]:
        examples = self.parts[part]
        yield from _batches(
            [(i, label) for i, (_, label) in enumerate(examples)],
            lambda i: central_crop(examples[i][0]),
            batch,
        )


def _shuffled(folder: Path, names: list[str], count: int) -> list[Example]:
    """The first `count` images, 0 for all, in one fixed order that mixes the classes."""
    examples = [
        (path, label)
        for label, name in enumerate(names)
        for path in sorted((folder / name).iterdir())
    ]
    return [
        examples[i] for i in np.random.default_rng(0).permutation(len(examples))[: count or None]
    ]


def _batches(
    items: list[tuple[int, int]], load: Callable[[int], NDArray[np.float32]], batch: int
) -> Iterator[Batch]:
    """The batch after the next is being decoded while one is worked on."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        chunks = [items[first : first + batch] for first in range(0, len(items), batch)]
        waiting = [[pool.submit(load, i) for i, _ in chunk] for chunk in chunks[:2]]
        for place, chunk in enumerate(chunks):
            images = np.stack([future.result() for future in waiting.pop(0)])
            if place + 2 < len(chunks):
                waiting.append([pool.submit(load, i) for i, _ in chunks[place + 2]])
            yield torch.from_numpy(images), torch.tensor([label for _, label in chunk])


def random_crop(path: Path, random: np.random.Generator) -> NDArray[np.float32]:
    """8 to 100% of the area, sides 3:4 to 4:3, in ten attempts (then the centre), mirrored every
    other time.
    """
    with require("PIL.Image", EXPERIMENTS).open(path) as image:
        width, height = image.size
        side = min(width, height)
        box: Box = (
            (width - side) / 2,
            (height - side) / 2,
            (width + side) / 2,
            (height + side) / 2,
        )
        for _ in range(10):
            area = width * height * random.uniform(0.08, 1)
            ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = (
                    int(random.integers(width - w + 1)),
                    int(random.integers(height - h + 1)),
                )
                box = (left, top, left + w, top + h)
                break
        pixels = _pixels(image, box)
    return np.ascontiguousarray(pixels[:, :, ::-1]) if random.integers(2) else pixels


def central_crop(path: Path) -> NDArray[np.float32]:
    """The central 224×224 of the image whose shorter side has 256 pixels."""
    with require("PIL.Image", EXPERIMENTS).open(path) as image:
        width, height = image.size
        side = min(width, height) * SIDE / 256
        return _pixels(
            image,
            ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2),
        )


def _pixels(image: object, box: Box) -> NDArray[np.float32]:
    """The box as (3, 224, 224), bilinear, normalized."""
    bilinear = require("PIL.Image", EXPERIMENTS).Resampling.BILINEAR
    small = image.convert("RGB").resize((SIDE, SIDE), bilinear, box=box)  # type: ignore[attr-defined]
    x = np.asarray(small, np.float32).transpose(2, 0, 1) / 255
    mean, std = (np.array(channels, np.float32)[:, None, None] for channels in (MEAN, STD))
    return np.asarray((x - mean) / std)
