"""VGG16 for 32×32 images with batch normalization after each convolution, as in the code of the SWA
papers; else that of `vgg16`, rounded at the same places.
"""

from __future__ import annotations

from .vgg16 import VGG16


def build(classes: int, width: int, depth: int) -> VGG16:
    """`depth` has no meaning here."""
    return VGG16(classes, width or 64, batch_norm=True)
