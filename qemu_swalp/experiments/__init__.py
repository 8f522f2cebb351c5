"""The experiments of `qemu-swalp reproduce`.

Each module holds a `Settings` dataclass and a function `run`; `vision` holds several experiments on
one engine.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

from .vision import PRESETS, Experiment, experiment

EXPERIMENTS = {
    "digits": (
        "SWALP on 8×8 digits: softmax regression in fixed point, a network in block floating point"
    ),
    "linear-regression": "the theory on least squares: SWALP goes below the quantization floor",
    "theory": "both theorems with few random bits, rounding to nearest, small and big blocks",
    "logistic-regression": (
        "MNIST softmax regression over a sweep of fractional bits, on the core, PyTorch and Keras"
    ),
    "mnist-lenet": (
        "MNIST with every number in 8 bits: SGD, SWALP and its neighbours EMA, LAWA, ASWA, SQWA,"
        " SWAP"
    ),
    "cifar10-vgg16": "the paper's VGG16 on CIFAR-10, in float32 and with every number in 8 bits",
    "cifar10-vgg16bn": "VGG16 with batch normalization on CIFAR-10",
    "cifar100-vgg16": "the paper's VGG16 on CIFAR-100",
    "cifar10-preresnet164": "the paper's PreResNet-164 on CIFAR-10",
    "cifar100-preresnet164": "the paper's PreResNet-164 on CIFAR-100",
    "language-model": (
        "a transformer on the source of Python's standard library, by today's recipes: last"
        " iterate, decayed, SWALP, EMA, LAWA"
    ),
    "imagenet-resnet18": "ResNet-18 on ImageNet",
}
"""Name of each experiment → what it shows, in one line."""


def load_experiment(name: str) -> ModuleType | Experiment:
    """The experiment of that name, one of `EXPERIMENTS`: its `Settings` and its function `run`."""
    if name in PRESETS:
        return experiment(name)
    return import_module(f".{name.replace('-', '_')}", __name__)


def load_lines(name: str) -> tuple[type[Any], Any]:
    """The settings of an experiment, and the function that shows its runs by their lines."""
    experiment = load_experiment(name)
    return experiment.Settings, experiment.outcome_of


def load_on_framework(framework: str, name: str) -> ModuleType:
    """The module by which an experiment trains on "torch" or "keras".

    ImportError, which says what to install, if the framework is missing.
    """
    import_module(f"qemu_swalp_{framework}")
    return import_module(f".{name}.on_{framework}", __name__)
