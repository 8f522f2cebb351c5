"""Layer 6: the experiments of `qemu-swalp reproduce`. Each module holds a `Settings` dataclass and a function `run`."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

EXPERIMENTS = {
    "digits": "SWALP on 8×8 digits: softmax regression in fixed point, a network in block floating point",
    "linear-regression": "the theory on least squares: SWALP goes below the quantization floor",
    "logistic-regression": "MNIST softmax regression over a sweep of fractional bits, on the core, PyTorch and Keras",
}
"""Name of each experiment → what it shows, in one line."""

EXTRA = "experiments"
"""The extra of the package that installs what experiments and pictures need."""


def load(name: str) -> ModuleType:
    """The module of an experiment, imported now."""
    return import_module(f".{name.replace('-', '_')}", __name__)


def load_on(framework: str, name: str) -> ModuleType:
    """The module of what an experiment does on "torch" or "keras". The adapter's ImportError where that is missing."""
    import_module(f"qemu_swalp_{framework}")
    return import_module(f".{name}_{framework}", __name__)
