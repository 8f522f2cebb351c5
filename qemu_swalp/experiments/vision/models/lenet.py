"""LeNet-5 (LeCun et al. 1998) with ReLU and max pooling: 28×28 images, 62,000 parameters."""

from __future__ import annotations

from typing import ClassVar

from torch import nn


class LeNet(nn.Sequential):
    """Two convolutions, three linear layers; `width` 6 channels in the first."""

    rounded: ClassVar = {"modules": nn.ReLU}

    def __init__(self, classes: int, width: int) -> None:
        more = width * 16 // 6
        super().__init__(
            nn.Conv2d(1, width, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, more, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(more * 25, width * 20),
            nn.ReLU(),
            nn.Linear(width * 20, width * 14),
            nn.ReLU(),
            nn.Linear(width * 14, classes),
        )


def build(classes: int, width: int, depth: int) -> LeNet:
    """`depth` has no meaning here."""
    return LeNet(classes, width or 6)
