"""PreResNet-164 for 32×32 images (He et al. 2016, arXiv 1603.05027), as in SWALP's code: 1.7
million parameters.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from . import he_normal


class Bottleneck(nn.Module):
    """x + conv(conv(conv(x))), batch normalization and ReLU before each; four times `planes`
    channels out.
    """

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * planes
        self.residual = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, planes, 1, bias=False),
            nn.BatchNorm2d(planes),
            nn.ReLU(),
            nn.Conv2d(planes, planes, 3, stride, 1, bias=False),
            nn.BatchNorm2d(planes),
            nn.ReLU(),
            nn.Conv2d(planes, outputs, 1, bias=False),
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.residual(x) + self.shortcut(x)
        return out


class PreResNet(nn.Sequential):
    """`depth` 9n + 2: three stages of n bottlenecks; `width` 16 planes in the first.

    Rounded after each ReLU and convolution of the blocks and the first convolution. Residual sums,
    convolutions on shortcuts, and the last batch normalization, ReLU and linear layer are not.
    """

    rounded: ClassVar = {"modules": (nn.ReLU, nn.Conv2d), "exclude": ("*.shortcut", "last")}

    def __init__(self, classes: int, width: int, depth: int) -> None:
        if depth < 11 or (depth - 2) % 9:
            raise ValueError(f"--depth must be 9n + 2: 11, 20, …, 164, got {depth}")
        super().__init__()
        self.add_module("first", nn.Conv2d(3, width, 3, padding=1, bias=False))
        inputs = width
        for stage, planes in enumerate((width, 2 * width, 4 * width)):
            for place in range((depth - 2) // 9):
                stride = 2 if stage and not place else 1
                self.add_module(f"block{stage}_{place}", Bottleneck(inputs, planes, stride))
                inputs = 4 * planes
        self.add_module("norm", nn.BatchNorm2d(inputs))
        self.add_module("last", nn.ReLU())
        self.add_module("pool", nn.AdaptiveAvgPool2d(1))
        self.add_module("flat", nn.Flatten())
        self.add_module("head", nn.Linear(inputs, classes))
        self.apply(he_normal)


def build(classes: int, width: int, depth: int) -> PreResNet:
    """The published network is width 16, depth 164."""
    return PreResNet(classes, width or 16, depth or 164)
