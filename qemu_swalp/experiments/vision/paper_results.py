"""Published test errors in percent, mean ± deviation, by experiment, numbers and method.

CIFAR: README of stevenygd/SWALP (8-bit, small blocks; SGD-LP at START, SWALP at the end; SGD in
float at the end of a run of its own, from the SWA code); the low-precision ones of PreResNet-164:
PyTorch's announcement of SWA, April 2019. ImageNet: Fox et al., Block Minifloat (2021), table 3:
top-1 accuracy 65.8 and 70.3.
"""

from __future__ import annotations

FLOAT, LOW = "float32", "8 bits"

PUBLISHED: dict[str, dict[tuple[str, str, str], str]] = {
    "cifar10-vgg16": {
        (FLOAT, "decayed", "end"): "6.81 ± 0.09",
        (FLOAT, "swa", "end"): "6.51 ± 0.14",
        (LOW, "sgd", "start"): "7.61 ± 0.15",
        (LOW, "swa", "end"): "6.70 ± 0.12",
    },
    "cifar10-preresnet164": {
        (FLOAT, "decayed", "end"): "4.63 ± 0.18",
        (FLOAT, "swa", "end"): "4.03 ± 0.10",
    },
    "cifar100-vgg16": {
        (FLOAT, "decayed", "end"): "27.23 ± 0.17",
        (FLOAT, "swa", "end"): "25.93 ± 0.21",
        (LOW, "sgd", "start"): "29.59 ± 0.32",
        (LOW, "swa", "end"): "26.65 ± 0.29",
    },
    "cifar100-preresnet164": {
        (FLOAT, "decayed", "end"): "22.20 ± 0.57",
        (FLOAT, "swa", "end"): "19.95 ± 0.19",
        (LOW, "sgd", "start"): "24.0",
        (LOW, "swa", "end"): "21.8",
    },
    "imagenet-resnet18": {(FLOAT, "decayed", "end"): "29.7", (LOW, "swa", "end"): "34.2"},
}
