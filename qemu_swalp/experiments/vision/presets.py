"""The experiments on networks, and the defaults of each: SWALP's released recipe where there is
one.

VGG16 and PreResNet-164: the scripts `exp/block_vgg_swa.sh` and `exp/block_resnet_swa.sh` of
stevenygd/SWALP, which average once an epoch, from the end of epoch START on. ImageNet: the paper's
recipe was not established; this one is the usual schedule of ResNet-18 in the shape of SWALP's, to
be overridden. MNIST: ours, sized for a CPU.
"""

from __future__ import annotations

from dataclasses import field, fields, make_dataclass
from typing import Any

from .settings import METHODS, Settings

VGG16 = {"model": "vgg16"}
"""All else is the default of `Settings`."""
PRERESNET164 = {
    "model": "preresnet164",
    "epochs": 225,
    "start": 150,
    "learning_rate": 0.1,
    "weight_decay": 3e-4,
    "quick": {"depth": 11},
}

PRESETS: dict[str, dict[str, Any]] = {
    "mnist-lenet": {
        "dataset": "mnist",
        "model": "lenet",
        "method": METHODS,
        "epochs": 10,
        "start": 5,
        "subset": 2500,
        "validation": 500,
        "batch": 64,
        "swa_learning_rate": 0.02,
        "sqwa_captures": 3,
        "sqwa_high": 0.02,
        "sqwa_low": 0.002,
        "swap_batch": 128,
        "swap_rate": 0.05,
        "swap_epochs": 8,
        "swap_refine": 2,
        "quick": {"validation": 64},
    },
    "cifar10-vgg16": {"dataset": "cifar10", **VGG16},
    "cifar10-vgg16bn": {"dataset": "cifar10", "model": "vgg16bn"},
    "cifar100-vgg16": {"dataset": "cifar100", **VGG16},
    "cifar10-preresnet164": {"dataset": "cifar10", **PRERESNET164},
    "cifar100-preresnet164": {"dataset": "cifar100", **PRERESNET164},
    "imagenet-resnet18": {
        "dataset": "imagenet",
        "model": "resnet18",
        "epochs": 120,
        "start": 90,
        "learning_rate": 0.1,
        "swa_learning_rate": 0.001,
        "batch": 256,
        "weight_decay": 1e-4,
    },
}


def settings_of(name: str) -> type[Settings]:
    """The `Settings` of an experiment: the common options with its own defaults."""
    defaults = dict(PRESETS[name])
    dataset, model, quick = (
        defaults.pop("dataset"),
        defaults.pop("model"),
        defaults.pop("quick", {}),
    )
    changed = [
        (
            item.name,
            item.type,
            field(
                default=defaults.get(item.name, item.default),
                metadata=dict(item.metadata)
                | ({"quick": quick[item.name]} if item.name in quick else {}),
            ),
        )
        for item in fields(Settings)
        if item.name in defaults or item.name in quick
    ]
    return make_dataclass(
        name.title().replace("-", ""),
        changed,
        bases=(Settings,),
        frozen=True,
        namespace={
            "experiment": name,
            "dataset": dataset,
            "model": model,
            "__module__": __name__,
            "__doc__": f"Options of `qemu-swalp reproduce {name}`.",
        },
    )
