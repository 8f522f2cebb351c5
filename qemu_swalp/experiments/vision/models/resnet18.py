"""ResNet-18 for ImageNet (He et al. 2015, arXiv 1512.03385): 11.7 million parameters."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from . import he_normal


class Basic(nn.Module):
    """relu(x + residual(x)) with two 3×3 convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.residual(x) + self.shortcut(x))
        return out


class ResNet18(nn.Sequential):
    """Four stages of two blocks; `width` 64 channels in the first.

    Where the paper rounds in it was not established. Here, as it does in PreResNet: after each ReLU
    and convolution, but not on shortcuts.
    """

    rounded: ClassVar = {"modules": (nn.ReLU, nn.Conv2d), "exclude": "*.shortcut*"}

    def __init__(self, classes: int, width: int) -> None:
        super().__init__(
            nn.Conv2d(3, width, 7, 2, 3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
            Basic(width, width, 1),
            Basic(width, width, 1),
            Basic(width, 2 * width, 2),
            Basic(2 * width, 2 * width, 1),
            Basic(2 * width, 4 * width, 2),
            Basic(4 * width, 4 * width, 1),
            Basic(4 * width, 8 * width, 2),
            Basic(8 * width, 8 * width, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8 * width, classes),
        )
        self.apply(he_normal)


def build(classes: int, width: int, depth: int) -> ResNet18:
    """`depth` has no meaning here."""
    return ResNet18(classes, width or 64)
