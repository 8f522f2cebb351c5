"""The networks, on PyTorch: one small file each.

Each module has `build(classes, width, depth)`: width and depth 0 are the published network's. The
network's `rounded` holds the arguments `modules` and `exclude` of `quantize_activations`: where
SWALP rounds activations and errors.
"""

from __future__ import annotations

from importlib import import_module

from torch import nn

MODELS = ("lenet", "vgg16", "vgg16bn", "preresnet164", "resnet18")


def build(model: str, classes: int, width: int = 0, depth: int = 0) -> nn.Module:
    """A network with weights drawn from PyTorch's generator."""
    network: nn.Module = import_module(f".{model}", __name__).build(classes, width, depth)
    return network


def he_normal(module: nn.Module) -> None:
    """Convolutions as in the authors' code: weights normal with variance 2/(k²·outputs), biases
    0.
    """
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
