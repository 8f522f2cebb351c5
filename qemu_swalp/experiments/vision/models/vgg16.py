"""VGG16 for 32×32 images, without batch normalization, as in SWALP's code: 15 million
parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar

from torch import nn

from . import he_normal

STAGES = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))
"""Channels of each convolution as multiples of `width`; a stage ends with 2×2 max pooling."""


class VGG16(nn.Sequential):
    """Thirteen 3×3 convolutions, three linear layers, dropout before the first two; `width` 64
    channels at first.

    Rounded after every ReLU: not the logits.
    """

    rounded: ClassVar = {"modules": nn.ReLU}

    def __init__(self, classes: int, width: int, batch_norm: bool = False) -> None:
        last = 8 * width
        head = (
            nn.Dropout(),
            nn.Linear(last, last),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(last, last),
            nn.ReLU(),
            nn.Linear(last, classes),
        )
        super().__init__(*_features(width, batch_norm), nn.Flatten(), *head)
        self.apply(he_normal)


def _features(width: int, batch_norm: bool) -> Iterator[nn.Module]:
    channels = 3
    for stage in STAGES:
        for inputs, outputs in pairwise([channels, *(multiple * width for multiple in stage)]):
            yield nn.Conv2d(inputs, outputs, 3, padding=1)
            if batch_norm:
                yield nn.BatchNorm2d(outputs)
            yield nn.ReLU()
            channels = outputs
        yield nn.MaxPool2d(2)


def build(classes: int, width: int, depth: int) -> VGG16:
    """`depth` has no meaning here."""
    return VGG16(classes, width or 64)
