"""Sums of convolutions have the bits of the PyTorch adapter, given the same operands."""

import keras
import numpy as np
import pytest
import torch
from keras import layers
from qemu_swalp_keras import quantize_gemms
from qemu_swalp_torch import quantize_gemms as quantize_modules
from torch import nn

from qemu_swalp.training import SUMS, Recipe
from tests.helpers.keras_native import BACKEND, normal, same
from tests.helpers.keras_training import gradients

RECIPE = Recipe(
    operands={"input": "fixed<8,4>"},
    sums={name: f"float<5,{n}>/stochastic; chunk=4" for n, name in enumerate(SUMS, start=4)},
)
PAIRS = {
    "strides": (layers.Conv2D(4, 3, strides=2), nn.Conv2d(3, 4, 3, 2), (2, 7, 6, 3)),
    "same": (
        layers.Conv2D(4, 3, padding="same"),
        nn.Conv2d(3, 4, 3, padding=1),
        (2, 4, 5, 3),
    ),
    "dilated": (
        layers.Conv2D(2, (3, 2), dilation_rate=2),
        nn.Conv2d(3, 2, (3, 2), dilation=2),
        (2, 6, 5, 3),
    ),
    "depthwise": (
        layers.DepthwiseConv2D(3, depth_multiplier=2),
        nn.Conv2d(3, 6, 3, groups=3),
        (2, 4, 5, 3),
    ),
    "groups": (layers.Conv2D(4, 2, groups=2), nn.Conv2d(6, 4, 2, groups=2), (2, 3, 4, 6)),
}


@pytest.mark.parametrize("name", ["same", "depthwise"] if BACKEND == "jax" else PAIRS)
def test_forward_and_both_gradients(name):
    kind, module, shape = PAIRS[name]
    layer = type(kind).from_config({**kind.get_config(), "use_bias": False})
    model = keras.Sequential([layers.Input(shape[1:]), layer])
    (kernel,) = layer.get_weights()
    turned = np.transpose(kernel, (3, 2, 0, 1))
    if name == "depthwise":
        turned = np.transpose(kernel, (2, 3, 0, 1)).reshape(-1, 1, 3, 3)
    module.bias = None
    module.weight = nn.Parameter(torch.tensor(np.ascontiguousarray(turned)))
    modules = nn.Sequential(module).train()
    handle = quantize_modules(modules, RECIPE, seed=3)
    x = normal(shape, 1)
    x_ = torch.tensor(np.ascontiguousarray(np.moveaxis(x, -1, 1)), requires_grad=True)
    y_ = modules(x_)
    e = normal(tuple(y_.shape), 2)
    dx_, dw_ = torch.autograd.grad(y_, [x_, module.weight], torch.tensor(e))
    handle.remove()
    quantize_gemms(model, RECIPE, seed=3)
    run = lambda x: model(x, training=True)  # noqa: E731
    y, (dx,), (dw,) = gradients(
        run, layer.trainable_weights, np.ascontiguousarray(np.moveaxis(e, 1, -1)), x
    )
    back = np.transpose(dw, (3, 2, 0, 1))
    if name == "depthwise":
        back = np.transpose(dw, (2, 3, 0, 1)).reshape(-1, 1, 3, 3)
    same(np.moveaxis(y, -1, 1), y_.detach().numpy())
    same(np.moveaxis(dx, -1, 1), dx_.numpy())
    same(back, dw_.numpy())
